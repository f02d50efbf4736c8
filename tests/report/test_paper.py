"""The printed figures, against the paper's tables: typed from these, in percent."""

from pathlib import Path
from statistics import fmean

import pytest
from timm.data import ImageNetInfo

from mofe.report import paper
from mofe.report.configurations import TABLES

ROOT = Path(__file__).parents[2]
ONE_K, HUNDRED = "ImageNet-1K", "ImageNet-100"


def in_percent(fraction: float) -> float:
    return round(100 * fraction, 2)


# iNaturalist, Places, SUN, Textures and the printed average
CELLS = [
    ("1", ONE_K, "MSP", "9.05 52.58 49.45 52.32 40.85", "98.15 86.34 87.35 85.82 89.41", 81.70),
    ("1", ONE_K, "MaxLogit", "8.21 53.93 50.48 54.32 41.73", "98.22 85.80 87.00 85.25 89.06", 81.70),
    ("1", ONE_K, "Energy", "13.23 66.63 61.57 66.43 51.96", "96.86 83.32 84.76 82.36 86.82", 81.70),
    ("1", ONE_K, "KNN", "3.01 42.78 35.96 35.30 29.27", "98.26 88.89 91.51 91.05 92.67", 81.70),
    ("2", ONE_K, "fine-tuned, MSP", "25.02 57.09 53.65 48.79 48.13", "94.76 83.45 85.22 85.81 87.31", 86.01),
    ("2", ONE_K, "fine-tuned, MaxLogit", "22.96 59.21 54.52 48.17 46.21", "94.59 78.41 81.80 84.16 84.74", 86.01),
    ("2", ONE_K, "fine-tuned, Energy", "28.48 65.88 61.54 53.29 52.29", "93.19 74.49 78.71 81.92 82.07", 86.01),
    ("2", ONE_K, "fine-tuned, KNN", "5.67 43.25 36.42 28.04 28.34", "97.65 88.21 90.21 92.66 92.18", 86.01),
    ("2", ONE_K, "ours", "2.74 24.32 17.38 18.58 17.01", "98.82 93.73 95.65 95.38 95.89", 86.40),
    ("3", HUNDRED, "MSP", "5.06 26.58 27.64 26.43 21.42", "98.85 94.78 95.02 94.27 95.72", 94.50),
    ("3", HUNDRED, "MaxLogit", "5.55 29.69 32.73 29.27 24.31", "98.76 94.19 94.20 93.72 95.21", 94.50),
    ("3", HUNDRED, "Energy", "18.57 54.72 62.42 57.28 48.21", "96.69 88.92 87.17 88.40 90.29", 94.50),
    ("3", HUNDRED, "KNN", "2.58 18.45 15.89 16.79 13.42", "99.02 95.12 96.16 96.38 96.66", 94.50),
    ("3", HUNDRED, "ours", "2.25 12.81 8.51 8.85 8.10", "99.23 96.66 97.86 97.28 97.75", 96.94),
]


@pytest.mark.parametrize(("table", "id_data", "method", "fpr95", "auroc", "accuracy"), CELLS)
def test_every_cell_of_a_row_is_the_printed_one(
    table: str, id_data: str, method: str, fpr95: str, auroc: str, accuracy: float
) -> None:
    found = paper.printed(TABLES["1-3"].paper, method, id_data)
    assert found == paper.printed([table], method, id_data)
    for figures, typed in ((found.fpr95, fpr95), (found.auroc, auroc)):
        assert list(figures) == [*paper.SETS, paper.AVERAGE]
        assert [in_percent(figure) for figure in figures.values()] == [float(number) for number in typed.split()]
    assert found.id_accuracy is not None and in_percent(found.id_accuracy) == accuracy


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ("4", [(29.27, 92.67), (22.59, 94.01), (23.85, 93.72), (17.01, 95.89)]),
        ("5", [(29.27 - gain, None) for gain in (4.1, 6.3, 9.8, 12.26, 12.10, 12.09)]),
        ("6", [(29.27, 92.67), (25.63, 93.01), (26.34, 92.99), (22.59, 94.01), None, None]),
        ("7", [(29.27, 92.67), (30.43, 91.65), (24.96, 93.36), (23.85, 93.72)]),
    ],
)
def test_the_averages_of_the_ablations_are_the_printed_ones(
    table: str, expected: list[tuple[float, float | None] | None]
) -> None:
    definition = TABLES[table]
    for row, pair in zip(definition.rows, expected, strict=True):
        found = paper.printed(definition.paper, row.paper, ONE_K)
        fpr95, auroc = pair or (None, None)
        assert found.fpr95 == ({} if fpr95 is None else {paper.AVERAGE: pytest.approx(fpr95 / 100)})
        assert found.auroc == ({} if auroc is None else {paper.AVERAGE: pytest.approx(auroc / 100)})
        assert paper.printed(definition.paper, row.paper, HUNDRED) == paper.Printed(), "only for ImageNet-1K"


def test_the_baseline_of_the_ablations_is_the_pretrained_backbone_and_not_naive_fine_tuning() -> None:
    for table in ("4", "6", "7"):
        (baseline,) = [row for row in TABLES[table].rows if row.label.startswith("baseline")]
        assert baseline.settings == {"num_experts": 1, "epochs": 0}
        assert baseline.score == "knn"


DEVIATIONS = {
    ("1", "DINOv2 ViT-B/14", "KNN", "auroc"), ("2", "DINOv2 ViT-B/14", "fine-tuned, MSP", "fpr95"),
    ("2", "DINOv2 ViT-B/14", "ours", "fpr95"), ("3", "CLIP ViT-B/16", "MSP", "fpr95"),
    ("3", "DINOv2 ViT-B/14", "Energy", "fpr95"),
}  # fmt: skip
"""Printed averages that are more than a rounding from the mean of their cells; the file's head names them."""


def test_averages_follow_from_their_cells_but_for_those_that_the_file_names() -> None:
    """A cell that is typed wrongly shows here, for CLIP and the older detectors too."""
    found = set()
    for (table, _, backbone, method), cells in paper._rows().items():
        for name in ("fpr95", "auroc") if len(cells) > 1 else ():
            mean = fmean(float(cells[ood][name]) for ood in paper.SETS)
            if abs(mean - float(cells[paper.AVERAGE][name])) > 0.0101:
                found.add((table, backbone, method, name))
    assert found == DEVIATIONS


def test_data_are_recognised_by_their_wnids() -> None:
    everything = ImageNetInfo().label_names()
    of_hundred = (ROOT / "examples" / "imagenet-100.txt").read_text().split()
    assert paper.id_data_of(everything) == ONE_K
    assert paper.id_data_of(dict.fromkeys(reversed(of_hundred), 0.5)) == HUNDRED
    assert paper.id_data_of(everything[:100]) == "", "another selection of 100 classes"
    assert paper.id_data_of(["cat", "dog"]) == ""


def test_an_average_stands_beside_an_average_of_the_four_sets_only() -> None:
    figures = {"iNaturalist": 0.1, "Places": 0.2, "SUN": 0.3, "Textures": 0.4, "average": 0.25}
    four = ["sun", "INATURALIST", "textures", "places"]
    groups = {**{name: [name] for name in four}, "ninco": ["ninco"], "far": four, "average": [*four, "ninco"]}
    assert paper.beside(figures, groups) == {
        "sun": 0.3, "INATURALIST": 0.1, "textures": 0.4, "places": 0.2, "far": 0.25,
    }  # fmt: skip
    assert paper.beside({"average": 0.25}, groups) == {"far": 0.25}
    assert paper.beside({}, groups) == {}
