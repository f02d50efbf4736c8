"""Computes metrics and a report from scores."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import pyarrow.compute as pc

from mofe.artifacts.metrics import ExpertResult, Metrics, Result
from mofe.artifacts.model import History
from mofe.artifacts.partition import Partition
from mofe.artifacts.scores import ScoreTable
from mofe.detection.bootstrap import bootstrap_intervals
from mofe.detection.metrics import ROC, ood_metrics, roc_points
from mofe.errors import MofeError
from mofe.progress import progress
from mofe.report.page import PRIMARY, render
from mofe.report.text import format_table
from mofe.storage import locations, writing
from mofe.tracking import journal

MAX_AT_ONCE = 4
"""Number of (set, score) pairs measured at once: each bootstrap of 60 000 images holds 190 MB."""


class Evaluation(NamedTuple):
    """The part of an evaluation that a dashboard shows."""

    figures: dict[str, float]
    curve: ROC
    """ROC curve of the KNN score over all OOD sets pooled."""


def evaluate(
    scores: list[str],
    partition: str,
    history: str,
    *,
    metrics: str,
    roc: str,
    report: str,
    name: str = "",
    ood_data: list[dict[str, str]] | None = None,
) -> Evaluation:
    """Compare the scores of the ID test set with those of every OOD set; write metrics, ROC curves and the report.

    Args:
        scores: score tables written by score: one of the ID test set, one or more of OOD sets.
        partition: partition written by partition.
        history: training history written by finetune.
        metrics: path or URI of the metrics.json to write.
        roc: path or URI of the JSON file to write: ROC curves of the KNN score, at most 200 points each.
        report: path or URI of the report to write, one self-contained HTML page.
        name: name of the configuration, where several are compared.
        ood_data: list of OOD sets that fingerprint returned: each has a "dataset", a "uri" and a "kind" (near, far
            or "").

    Raises:
        MofeError: the tables, the partition and the history do not belong together.
    """
    with journal.stage_run("evaluate", {"score_tables": len(scores)}, label=name) as run:
        test, ood = _sorted_by_role([ScoreTable(uri) for uri in scores])
        classes, course = _read_training(partition, history, test)
        results = _measure(test, ood)
        found = _summarise(test, ood, classes, results, name, ood_data or [])

        writing.write_bytes(locations.resolve(metrics), found.to_bytes())
        writing.write_json(locations.resolve(roc), {"curves": [_curve(test, table) for table in ood]})
        page = render(found, test, ood, classes, course)
        writing.write_bytes(locations.resolve(report), page.encode())
        print(format_table(found))
        figures = _figures(found)
        run.metrics(figures)
        run.file(metrics)
        run.file(report)
    pooled = np.concatenate([table.table[PRIMARY].to_numpy() for table in ood])
    return Evaluation(figures, roc_points(test.table[PRIMARY].to_numpy(), pooled))


def _read_training(partition: str, history: str, test: ScoreTable) -> tuple[Partition, History]:
    """Read the partition and the training history of the scored model.

    Raises:
        MofeError: they belong to another model.
    """
    classes, course = Partition.read(partition), History.read(history)
    for what, made in ((f"the scores {test.uri}", test.info), (f"the training history {history}", course)):
        if not made.check_source("partition", classes):
            raise MofeError(
                f"{what} and the partition {partition} belong to different models: give the files of one run"
            )
    return classes, course


def _measure(test: ScoreTable, ood: list[ScoreTable]) -> tuple[Result, ...]:
    """Measure every score on every OOD set, several at once."""
    pairs = [(table, score) for table in ood for score in test.info.scores]
    with ThreadPoolExecutor(MAX_AT_ONCE) as pool:
        measured = pool.map(lambda pair: _result(test, *pair), pairs)
        return tuple(progress(measured, label="evaluate", total=len(pairs), unit="score"))


def _summarise(
    test: ScoreTable,
    ood: list[ScoreTable],
    classes: Partition,
    results: tuple[Result, ...],
    name: str,
    ood_data: list[dict[str, str]],
) -> Metrics:
    """Collect all figures of the evaluation."""
    labels = test.table["label"].to_numpy()
    right = test.table["predicted"].to_numpy() == labels
    routed_right = test.table["expert"].to_numpy() == np.array(classes.expert_of_class)[labels]
    by_name = {item["dataset"]: item for item in ood_data}
    sets = [by_name.get(table.info.dataset, {"dataset": table.info.dataset}) for table in ood]
    shown = [{key: item[key] for key in ("dataset", "uri", "kind") if item.get(key)} for item in sets]
    return Metrics(
        made_from={table.info.dataset: table.info.identity for table in (test, *ood)},
        name=name,
        id_accuracy=float(right.mean()),
        router_accuracy=float(routed_right.mean()),
        zero_shot_accuracy=test.info.zero_shot_accuracy,
        results=results,
        experts=_by_expert(test, ood, classes),
        class_accuracy={classes.classes[c]: float(right[labels == c].mean()) for c in np.unique(labels).tolist()},
        kinds={item["dataset"]: item["kind"] for item in sets if item.get("kind")},
        parameters={**test.info.parameters, "ood_data": shown},
    )


def _curve(test: ScoreTable, ood: ScoreTable) -> dict[str, Any]:
    """The ROC curve of the KNN score on one OOD set."""
    curve = roc_points(test.table[PRIMARY].to_numpy(), ood.table[PRIMARY].to_numpy())
    points = {name: values.tolist() for name, values in curve._asdict().items()}
    return {"ood": ood.info.dataset, "score": PRIMARY, **points}


def _figures(found: Metrics) -> dict[str, float]:
    """Figures for a dashboard: accuracies, and FPR95 and AUROC of the detector's own scores."""
    figures = {"id_accuracy": found.id_accuracy, "router_accuracy": found.router_accuracy}
    if found.zero_shot_accuracy is not None:
        figures["zero_shot_accuracy"] = found.zero_shot_accuracy
    own = [result for result in found.results if result.is_own]
    figures |= {f"{r.score}.{r.ood}.fpr95": r.fpr95 for r in own}
    figures |= {f"{r.score}.{r.ood}.auroc": r.auroc for r in own}
    return figures


def _result(test: ScoreTable, ood: ScoreTable, score: str) -> Result:
    known, unknown = test.table[score].to_numpy(), ood.table[score].to_numpy()
    likely = bootstrap_intervals(known, unknown)
    return Result(
        ood=ood.info.dataset,
        score=score,
        fpr95_interval=likely.fpr95,
        auroc_interval=likely.auroc,
        **vars(ood_metrics(known, unknown)),
    )


def _by_expert(test: ScoreTable, ood: list[ScoreTable], classes: Partition) -> tuple[ExpertResult, ...]:
    labels, routed = test.table["label"].to_numpy(), test.table["expert"].to_numpy()
    right, cluster = test.table["predicted"].to_numpy() == labels, np.array(classes.expert_of_class)[labels]
    known = test.table[PRIMARY].to_numpy()
    unknown = np.concatenate([table.table[PRIMARY].to_numpy() for table in ood])
    unknown_routed = np.concatenate([table.table["expert"].to_numpy() for table in ood])
    found = []
    for expert in range(classes.num_experts):
        mine, known_here, unknown_here = cluster == expert, known[routed == expert], unknown[unknown_routed == expert]
        metrics = ood_metrics(known_here, unknown_here) if len(known_here) and len(unknown_here) else None
        found.append(
            ExpertResult(
                expert=expert,
                id_images=int(mine.sum()),
                id_accuracy=float(right[mine].mean()) if mine.any() else None,
                ood_images=len(unknown_here),
                fpr95=metrics.fpr95 if metrics else None,
                auroc=metrics.auroc if metrics else None,
            )
        )
    return tuple(found)


def _sorted_by_role(tables: list[ScoreTable]) -> tuple[ScoreTable, list[ScoreTable]]:
    """Separate the ID test set from the OOD sets, and check that they are comparable."""
    names = [table.info.dataset for table in tables]
    if twice := {name for name in names if names.count(name) > 1}:
        raise MofeError(f"two score tables have the name {min(twice)!r}: give every data set its own name")
    tests = [table for table in tables if table.info.role == "test"]
    ood = [table for table in tables if table.info.role == "ood"]
    if len(tests) != 1:
        raise MofeError(
            f"expected the scores of one ID test set, found {len(tests)} among {', '.join(names) or 'no tables'}"
        )
    if not ood:
        raise MofeError("expected the scores of at least one OOD set, found none")
    for table in ood:
        if table.info.made_from.get("detector") != tests[0].info.made_from.get("detector"):
            raise MofeError(
                f"{table.info.dataset} and {tests[0].info.dataset} were scored by different detectors: "
                "score both with the same one"
            )
        if table.info.scores != tests[0].info.scores:
            raise MofeError(
                f"{table.info.dataset} has the scores {table.info.scores}, the ID test set has "
                f"{tests[0].info.scores}: score both again with the same detector"
            )
    unlabelled = pc.sum(pc.less(tests[0].table["label"], 0)).as_py()
    if unlabelled:
        raise MofeError(
            f"{unlabelled} images of the ID test set {tests[0].info.dataset} have no label that the model knows: "
            "remove them, or score them as an OOD set"
        )
    return tests[0], ood
