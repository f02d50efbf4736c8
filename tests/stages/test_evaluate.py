"""evaluate: the numbers of the tables, a page with all of them, and clear words where they cannot be had."""

import base64
import json
import re
import time
from pathlib import Path
from threading import Semaphore
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from helpers import SCORED, make_partition, write_scores
from sklearn.metrics import roc_auc_score

from mofe.artifacts.metrics import Metrics
from mofe.artifacts.model import Epoch, History
from mofe.artifacts.scores import ScoreTable
from mofe.detection.bootstrap import Intervals, bootstrap_intervals
from mofe.errors import MofeError
from mofe.report.export import as_latex
from mofe.report.page import render
from mofe.report.text import format_table
from mofe.stages.evaluate import MAX_AT_ONCE, evaluate
from mofe.storage import locations

PARTITION = make_partition([0, 1, 0])


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, str]:
    for name, artifact in (("partition", PARTITION), ("history", History(epochs=()))):
        (tmp_path / name).mkdir()
        artifact.write(locations.resolve(tmp_path / name))
    return {name: str(tmp_path / name) for name in ("partition", "history", "metrics", "roc", "report")}


def test_numbers_page_and_curves(tmp_path: Path, inputs: dict[str, str]) -> None:
    scores = [
        write_scores(tmp_path, "id-test", "test", 2),
        write_scores(tmp_path, "near", "ood", 1),
        write_scores(tmp_path, "far", "ood", 0),
    ]
    evaluation = evaluate(scores, **inputs)
    metrics = Metrics.read_file(Path(inputs["metrics"]))
    known = pq.read_table(f"{scores[0]}/scores.parquet").to_pydict()
    right = np.array(known["label"]) == np.array(known["predicted"])
    assert metrics.id_accuracy == pytest.approx(right.mean())
    routed = np.array(PARTITION.expert_of_class)[known["label"]] == known["expert"]
    assert metrics.router_accuracy == pytest.approx(routed.mean())
    assert [(r.ood, r.score) for r in metrics.results] == [(o, s) for o in ("near", "far") for s in SCORED]
    far = pq.read_table(f"{scores[2]}/scores.parquet").to_pydict()
    auroc = roc_auc_score([1] * 300 + [0] * 300, known["msp"] + far["msp"])
    assert metrics.results[3].auroc == pytest.approx(auroc)
    assert evaluation.figures["msp.far.auroc"] == pytest.approx(auroc)
    assert len(evaluation.curve.fpr) <= 200

    curves = json.loads(Path(inputs["roc"]).read_text())["curves"]
    assert [c["ood"] for c in curves] == ["near", "far"]
    assert all(np.isfinite(c["thresholds"]).all() for c in curves)

    page = Path(inputs["report"]).read_text()
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page
    assert "<script" not in page
    for text in ("near", "far", f"{100 * auroc:.2f}", "class1"):
        assert text in page
    table = format_table(metrics)
    assert f"{100 * auroc:.2f}" in table
    assert "average" in table


def test_few_bootstraps_are_held_at_once_however_many_cores_there_are(
    tmp_path: Path, inputs: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    monkeypatch.setattr("os.process_cpu_count", lambda: 64, raising=False)
    at_work, seen = Semaphore(MAX_AT_ONCE), []

    def watched(*given: Any) -> Intervals:
        seen.append(at_work.acquire(blocking=False))
        time.sleep(0.02)
        at_work.release()
        return bootstrap_intervals(*given, resamples=1)

    monkeypatch.setattr("mofe.stages.evaluate.bootstrap_intervals", watched)
    names = ("knn", *(f"tuned.{i}" for i in range(20)))
    scores = [write_scores(tmp_path, name, role, 0, names) for name, role in (("id-test", "test"), ("near", "ood"))]
    evaluate(scores, **inputs)
    assert seen == [True] * 21


def test_near_and_far_have_averages_of_their_own(tmp_path: Path, inputs: dict[str, str]) -> None:
    shifts = {"cats": 1.5, "dogs": 1.0, "noise": 0.0}
    scores = [write_scores(tmp_path, "id-test", "test", 2)]
    scores += [write_scores(tmp_path, name, "ood", shift) for name, shift in shifts.items()]
    kinds = {"cats": "near", "dogs": "near", "noise": "far"}
    evaluate(scores, **inputs, ood_data=[{"dataset": n, "uri": f"s3://b/{n}", "kind": k} for n, k in kinds.items()])
    metrics = Metrics.read_file(inputs["metrics"])
    assert metrics.averages == {
        "average of near-OOD": ["cats", "dogs"],
        "average of far-OOD": ["noise"],
        "average": ["cats", "dogs", "noise"],
    }
    knn = {r.ood: r for r in metrics.results if r.score == "knn"}
    near = f"{50 * (knn['cats'].fpr95 + knn['dogs'].fpr95):.2f}"
    (row,) = [line for line in format_table(metrics).splitlines() if line.startswith("average of near-OOD")]
    assert near in row
    page = Path(inputs["report"]).read_text()
    assert near in page.partition("average of near-OOD")[2].partition("</tr>")[0]
    assert as_latex(metrics).count("average of far-OOD") == 1
    assert metrics.parameters["ood_data"][2] == {"dataset": "noise", "uri": "s3://b/noise", "kind": "far"}
    file = base64.b64decode(re.search(r"data:text/yaml;base64,([^\"]+)", page)[1])  # type: ignore[index]
    assert yaml.safe_load(file) == metrics.parameters
    assert "train_data: &#39;&lt;photographs&gt;&#39;" in page or "train_data: &lt;photographs&gt;" in page


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        ([("near", "ood")], "one ID test set, found 0"),
        ([("id-test", "test")], "at least one OOD set"),
        ([("id-test", "test"), ("b", "test"), ("near", "ood")], "one ID test set, found 2"),
    ],
)
def test_sets_that_cannot_be_compared(
    tmp_path: Path, inputs: dict[str, str], sets: list[tuple[str, str]], message: str
) -> None:
    with pytest.raises(MofeError, match=message):
        evaluate([write_scores(tmp_path, name, role, 0) for name, role in sets], **inputs)
    assert not Path(inputs["metrics"]).exists()


def test_other_scores_and_the_same_set_twice(tmp_path: Path, inputs: dict[str, str]) -> None:
    test = write_scores(tmp_path, "id-test", "test", 0)
    with pytest.raises(MofeError, match="near has the scores"):
        evaluate([test, write_scores(tmp_path, "near", "ood", 0, ("knn",))], **inputs)
    with pytest.raises(MofeError, match="two score tables have the name 'id-test'"):
        evaluate([test, test], **inputs)


def test_the_page_shows_training_and_the_feature_space(tmp_path: Path, inputs: dict[str, str]) -> None:
    epochs = [
        Epoch(epoch=e, learning_rate=0.1 / (e or 1), layer_rates={"stem": 0.01 / e, "router and heads": 0.1 / e} if e
              else {}, loss=1.0, route_loss=0.4, expert_loss=0.6, regulariser=0.0,
              validation_accuracy=0.5, router_accuracy=0.9, class_accuracy=(0.1 * e, 0.5, 0.9), sigma=(0.9, 0.5, 0.2),
              images_per_second=9.0)
        for e in range(4)
    ]  # fmt: skip
    History(epochs=tuple(epochs)).write(locations.resolve(inputs["history"]))
    evaluate([write_scores(tmp_path, "id-test", "test", 2), write_scores(tmp_path, "near", "ood", 1)], **inputs)
    page = Path(inputs["report"]).read_text()
    for text in (
        "validation accuracy of each class",
        "σ of each class",
        "pre-trained backbone",
        "fine-tuned",
        "expert 1",
        "<tr><td>stem</td><td>0.1000</td><td>1.00e-02</td><td>3.33e-03</td></tr>",  # rates 0.1, 0.05 and 0.033
        "<tr><td>router and heads</td><td>1.0000</td><td>1.00e-01</td><td>3.33e-02</td></tr>",
    ):
        assert text in page


@pytest.mark.parametrize("rates", [[0.1, 0.0], [0.0]], ids=["the last rate", "the only rate"])
def test_the_page_shows_a_rate_of_zero(tmp_path: Path, inputs: dict[str, str], rates: list[float]) -> None:
    """min_learning_rate may be 0, and then the cosine ends there."""
    epochs = [
        Epoch(epoch=e, learning_rate=rate, layer_rates={"stem": rate / 10, "router and heads": rate} if e else {},
              loss=1.0, route_loss=0.4, expert_loss=0.6, regulariser=0.0, validation_accuracy=0.5, router_accuracy=0.9,
              class_accuracy=(0.1, 0.5, 0.9), sigma=(0.9, 0.5, 0.2), images_per_second=9.0)
        for e, rate in enumerate([0.1, *rates])
    ]  # fmt: skip
    History(epochs=tuple(epochs)).write(locations.resolve(inputs["history"]))
    evaluate([write_scores(tmp_path, "id-test", "test", 2), write_scores(tmp_path, "near", "ood", 1)], **inputs)
    share, highest = ("0.1000", "1.00e-02") if any(rates) else ("–", "0.00e+00")
    row = f"<tr><td>stem</td><td>{share}</td><td>{highest}</td><td>0.00e+00</td></tr>"
    assert row in Path(inputs["report"]).read_text()


def test_classes_whose_names_read_alike_keep_their_own_accuracy(tmp_path: Path, inputs: dict[str, str]) -> None:
    two_cranes = PARTITION.model_copy(update={"names": ("crane", "class1", "crane")})
    (Path(inputs["partition"]) / "partition.json").write_bytes(two_cranes.to_bytes())
    scores = [write_scores(tmp_path, "id-test", "test", 2), write_scores(tmp_path, "near", "ood", 1)]
    evaluate(scores, **inputs)
    known = pq.read_table(f"{scores[0]}/scores.parquet").to_pandas()
    right = (known["label"] == known["predicted"]).groupby(known["label"]).mean()
    accuracy = Metrics.read_file(inputs["metrics"]).class_accuracy
    assert accuracy == pytest.approx({two_cranes.classes[c]: right[c] for c in range(3)})
    page = Path(inputs["report"]).read_text()
    for c in (0, 2):
        assert f"crane {100 * right[c]:.2f}" in page


def test_scores_by_class_names_have_their_place(tmp_path: Path, inputs: dict[str, str]) -> None:
    names = (*SCORED, "tuned.vim", "text.mcm")
    scores = [write_scores(tmp_path, "id-test", "test", 2, names), write_scores(tmp_path, "near", "ood", 1, names)]
    told = ScoreTable(scores[0]).info.model_copy(update={"zero_shot_accuracy": 0.4321})
    (tmp_path / "id-test" / "scores.json").write_bytes(told.to_bytes())
    found = evaluate(scores, **inputs)
    assert found.figures["zero_shot_accuracy"] == 0.4321
    metrics = Metrics.read_file(inputs["metrics"])
    assert "zero-shot accuracy 43.21%" in format_table(metrics)
    page = Path(inputs["report"]).read_text()
    assert "43.21 %</b><span>by the class names alone" in page
    for results, there in ((metrics.results, True), (metrics.results[:3], False)):
        tables = [ScoreTable(uri) for uri in scores]
        shown = metrics.model_copy(update={"results": results, "zero_shot_accuracy": None})
        page = render(shown, tables[0], tables[1:], PARTITION, History(epochs=()))
        heads = page[page.index("Published baselines") :].partition("</thead>")[0]
        assert ("by class names<" in heads) == there
        assert "pre-trained backbone<" in heads
        assert "by the class names alone" not in page
