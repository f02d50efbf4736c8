"""Results for other programs hold every figure."""

import csv
import io

import pytest

from mofe.artifacts.metrics import Metrics, Result
from mofe.report.export import as_csv, as_latex, tables_as_csv, tables_as_latex
from mofe.report.tables import ComparedRow, ComparedTable, Spread

FIGURES = {"aupr_in": 0.5, "aupr_out": 0.5, "fpr95_ood_positive": 0.25}
METRICS = Metrics(
    id_accuracy=0.9,
    router_accuracy=0.9,
    results=(
        Result(ood="near", score="knn", fpr95=0.5, auroc=0.8, **FIGURES,
               fpr95_interval=(0.4, 0.6), auroc_interval=(0.7, 0.9)),
        Result(ood="far_1", score="knn", fpr95=0.1, auroc=0.9, **FIGURES),
        Result(ood="near", score="tuned.vim", fpr95=0.4, auroc=0.7, **FIGURES),
        Result(ood="far_1", score="tuned.vim", fpr95=0.3, auroc=0.95, **FIGURES),
    ),
)  # fmt: skip


def test_csv() -> None:
    rows = list(csv.DictReader(io.StringIO(as_csv(METRICS))))
    assert [(row["score"], row["ood"]) for row in rows] == [(r.score, r.ood) for r in METRICS.results]
    assert [float(row["fpr95"]) for row in rows] == [r.fpr95 for r in METRICS.results]
    assert (rows[0]["auroc_low"], rows[0]["fpr95_high"], rows[1]["auroc_low"]) == ("0.7", "0.6", "")


@pytest.mark.parametrize(
    "line",
    [
        r" & \multicolumn{2}{c}{near} & \multicolumn{2}{c}{far\_1} & \multicolumn{2}{c}{average} \\",
        r"knn & 50.00 & \textbf{80.00} & \textbf{10.00} & 90.00 & \textbf{30.00} & \textbf{85.00} \\",
        r"tuned.vim & \textbf{40.00} & 70.00 & 30.00 & \textbf{95.00} & 35.00 & 82.50 \\",
    ],
)
def test_latex(line: str) -> None:
    assert line in as_latex(METRICS).splitlines()


TABLES = [
    ComparedTable(
        "Table 4",
        "ImageNet-1K",
        [
            ComparedRow(
                "+ MoFE & more", {}, "knn", 2, Spread(0.9, 0.01), Spread(0.8, None),
                {"near": Spread(0.5, 0.02), "average": Spread(0.5, 0.02)},
                {"near": Spread(0.8, None), "average": Spread(0.8, None)}, {"near": 0.31}, {}, (0.2259, None), 0.864,
            ),
            ComparedRow(
                "own", {}, "knn", 2, Spread(0.9, 0.01), Spread(0.8, None),
                {"near": Spread(0.5, 0.02), "average": Spread(0.5, 0.02)},
                {"near": Spread(0.8, None), "average": Spread(0.8, None)}, {}, {}, (None, None), None,
            ),
        ],
    )
]  # fmt: skip


def test_csv_of_a_comparison() -> None:
    rows = list(csv.DictReader(io.StringIO(tables_as_csv(TABLES))))
    assert [(row["table"], row["row"], row["ood"]) for row in rows] == [
        ("Table 4", label, ood) for label in ("+ MoFE & more", "own") for ood in ("near", "average")
    ]
    assert (rows[0]["fpr95_mean"], rows[0]["fpr95_std"], rows[0]["auroc_std"]) == ("0.5", "0.02", "")
    names = ("fpr95", "auroc", "average_fpr95", "average_auroc", "id_accuracy")
    printed = [tuple(row[f"paper_{name}"] for name in names) for row in rows]
    assert printed == [
        ("0.31", "", "0.2259", "", "0.864"), ("", "", "0.2259", "", "0.864"), *2 * [("", "", "", "", "")]
    ]  # fmt: skip
    assert {row["paper_id_data"] for row in rows} == {"ImageNet-1K"}


def test_latex_of_a_comparison() -> None:
    lines = tables_as_latex(TABLES).splitlines()
    assert r"\begin{tabular}{lrrrrrrr}" in lines
    assert any(line.endswith(r"\multicolumn{2}{c}{paper, ImageNet-1K: average} \\") for line in lines)
    spread = r"50.00 $\pm$ 2.00 & 80.00"
    first = lines.index(rf"+ MoFE \& more & 90.00 $\pm$ 1.00 & {spread} & {spread} & 22.59 & -- \\")
    assert lines[first + 1] == r"\quad paper & 86.40 & 31.00 & -- & -- & -- &  &  \\"
    assert lines[first + 2] == rf"own & 90.00 $\pm$ 1.00 & {spread} & {spread} & -- & -- \\", "no line of the paper's"
