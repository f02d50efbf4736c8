"""compare_runs: mean and deviation against numpy, the paper beside them, in every form."""

import json
from pathlib import Path

import numpy as np
import pytest

from mofe.artifacts.metrics import Metrics, Result
from mofe.errors import MofeError
from mofe.report.configurations import TABLES, name_of
from mofe.report.tables import format_tables, read_tables
from mofe.stages.compare_runs import compare_runs
from mofe.stages.plan_runs import plan_runs

SCORES = ("knn", "msp", "max_logit", "energy")


def written(
    folder: Path, name: str, values: np.ndarray, sets: tuple[str, ...] = ("near", "far"), classes: tuple[str, ...] = ()
) -> str:
    """A metrics file whose FPR95 and AUROC of set s and score c are ``values[s, c]``."""
    results = [
        Result(ood=ood, score=score, fpr95=v, auroc=1 - v, aupr_in=v, aupr_out=v, fpr95_ood_positive=v)
        for ood, row in zip(sets, values.tolist(), strict=True)
        for score, v in zip(SCORES, row, strict=True)
    ]
    file = folder / f"{len(list(folder.iterdir()))}.json"
    metrics = Metrics(
        name=name,
        id_accuracy=values[0, 0] / 2,
        router_accuracy=0.5,
        results=tuple(results),
        kinds={"near": "near", "far": "far"},
        class_accuracy=dict.fromkeys(classes, 0.5),
    )
    file.write_bytes(metrics.to_bytes())
    return str(file)


def test_mean_and_deviation_over_seeds_beside_the_paper(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "runs").mkdir()
    values = {name_of(row.settings): rng.uniform(size=(3, 2, 4)) for row in TABLES["1-3"].rows}
    files = [
        written(tmp_path / "runs", name, value)
        for s in range(3)
        for name, value in ((n, v[s]) for n, v in values.items())
    ]
    runs = plan_runs(["1-3"], [], [0, 1, 2], {})
    compare_runs(files, runs, ["1-3"], [], results=str(tmp_path / "tables.json"), report=str(tmp_path / "tables.html"))

    (table,) = json.loads((tmp_path / "tables.json").read_text())
    for row, definition in zip(table["rows"], TABLES["1-3"].rows, strict=True):
        own = values[name_of(definition.settings)][:, :, SCORES.index(definition.score)]
        assert row["seeds"] == 3
        assert row["fpr95"]["far"] == pytest.approx({"mean": own[:, 1].mean(), "std": own[:, 1].std(ddof=1)})
        average = own.mean(axis=1)
        assert row["fpr95"]["average"] == pytest.approx({"mean": average.mean(), "std": average.std(ddof=1)})
        assert list(row["fpr95"]) == ["near", "far", "average of near-OOD", "average of far-OOD", "average"]
        assert row["fpr95"]["average of far-OOD"] == row["fpr95"]["far"]
        assert row["auroc"]["near"]["mean"] == pytest.approx(1 - own[:, 0].mean())
    printed = capsys.readouterr().out
    assert "mean ± standard deviation of 3 seeds" in printed
    assert "| 29.27 / 92.67 |" in printed
    page = (tmp_path / "tables.html").read_text()
    best = min(table["rows"], key=lambda row: row["fpr95"]["average"]["mean"])["fpr95"]["average"]
    assert f"<b>{100 * best['mean']:.2f} ± {100 * best['std']:.2f}</b>" in page
    assert "http" not in page
    assert format_tables(read_tables(tmp_path / "tables.json")) in printed


FOUR = ("inaturalist", "sun", "places", "textures")


def compared(folder: Path, table: str, classes: tuple[str, ...] = (), **base: object) -> tuple[dict, str]:  # type: ignore[type-arg]
    """The only table, as values and as a page, of runs on the paper's OOD sets whose figures are all 0.5."""
    (folder / "runs").mkdir()
    runs = plan_runs([table], [], [0], base)
    files = [written(folder / "runs", run["name"], np.full((4, 4), 0.5), FOUR, classes) for run in runs]
    compare_runs(files, runs, [table], [], results=str(folder / "t.json"), report=str(folder / "t.html"))
    return json.loads((folder / "t.json").read_text())[0], (folder / "t.html").read_text()


def test_the_papers_figures_stand_beside_each_set_and_their_average(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Printed for ours, ImageNet-1K: 2.74/98.82, 24.32/93.73, 17.38/95.65, 18.58/95.38; 17.01/95.89; accuracy 86.40."""
    table, page = compared(tmp_path, "1-3")
    ours = table["rows"][-1]
    assert ours["paper_fpr95"] == pytest.approx(
        {"inaturalist": 0.0274, "places": 0.2432, "sun": 0.1738, "textures": 0.1858, "average": 0.1701}
    )
    assert ours["paper_average"] == pytest.approx((0.1701, 0.9589))
    assert (table["id_data"], ours["paper_id_accuracy"]) == ("ImageNet-1K", pytest.approx(0.864))
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ours")]
    measured = "50.00 / 50.00"
    assert line == (
        f"| ours | 25.00 [86.40] | {measured} [2.74 / 98.82] | {measured} [17.38 / 95.65] | "
        f"{measured} [24.32 / 93.73] | {measured} [18.58 / 95.38] | {measured} [17.01 / 95.89] | 17.01 / 95.89 |"
    )
    assert '<b>50.00</b><br><span class="soft">24.32</span>' in page
    assert "paper, ImageNet-1K" in page


def test_on_imagenet_100_the_figures_are_those_of_imagenet_100(tmp_path: Path) -> None:
    wnids = (Path(__file__).parents[2] / "examples" / "imagenet-100.txt").read_text().split()
    table, page = compared(tmp_path, "1-3", tuple(wnids))
    averages = {row["label"]: row["paper_average"] for row in table["rows"]}
    assert averages["ours"] == pytest.approx((0.081, 0.9775))
    assert averages["pre-trained, KNN"] == pytest.approx((0.1342, 0.9666))
    assert averages["fine-tuned, KNN (here with Reg)"] == [None, None], "Table 3 has no such row"
    assert "ImageNet-1K" not in page
    assert "paper, ImageNet-100" in page


@pytest.mark.parametrize(
    ("base", "remarks"),
    [
        ({}, ["", " (here with Reg)", "", ""]),
        ({"regulariser": "none"}, ["", "", " (here without Reg)", " (here without Reg)"]),
        ({"regulariser_weight": 0.0}, ["", "", " (here without Reg)", " (here without Reg)"]),
    ],
)
def test_a_row_says_where_it_has_reg_and_the_papers_has_not(
    tmp_path: Path, base: dict[str, object], remarks: list[str]
) -> None:
    """Reg is Eq. 14, of Mixup: in the paper the baseline and MoFE alone have none."""
    table, _ = compared(tmp_path, "4", **base)
    labels = ["baseline: pre-trained, KNN", "+ MoFE", "+ Dynamic-β Mixup", "both"]
    assert [row["label"] for row in table["rows"]] == [a + b for a, b in zip(labels, remarks, strict=True)]


def test_one_seed_has_no_deviation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "runs").mkdir()
    file = written(tmp_path / "runs", "knn_k=5", np.full((2, 4), 0.25))
    own = [{"name": "five", "knn_k": 5}]
    compare_runs(
        [file], plan_runs([], own, [0], {}), [], own, results=str(tmp_path / "t.json"), report=str(tmp_path / "t.html")
    )
    printed = capsys.readouterr().out
    assert f"| five | 12.50 |{5 * ' 25.00 / 75.00 |'} – / – |" in printed
    assert "±" not in printed


def test_rows_that_are_one_run_both_show_it(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    file = written(tmp_path / "runs", "the method", np.full((2, 4), 0.25))
    own = [{"name": "seven", "num_experts": 7}, {"name": "as it is"}]
    runs = plan_runs([], own, [0], {"num_experts": 7})
    compare_runs([file], runs, [], own, results=str(tmp_path / "t.json"), report=str(tmp_path / "t.html"))
    (table,) = json.loads((tmp_path / "t.json").read_text())
    assert [(row["label"], row["seeds"], row["fpr95"]["near"]["mean"]) for row in table["rows"]] == [
        ("seven", 1, 0.25), ("as it is", 1, 0.25),
    ]  # fmt: skip


def test_a_row_without_a_run_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    file = written(tmp_path / "runs", "the method", np.full((2, 4), 0.5))
    with pytest.raises(MofeError, match="no run of the configuration 'epochs=0 num_experts=1'"):
        compare_runs(
            [file],
            plan_runs(["4"], [], [0], {}),
            ["4"],
            [],
            results=str(tmp_path / "t.json"),
            report=str(tmp_path / "t.html"),
        )
