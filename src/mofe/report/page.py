"""The report: one self-contained HTML file for screens of any size, which needs no network."""

import base64
from statistics import fmean
from typing import Any

import numpy as np
import pyarrow as pa
import yaml
from markupsafe import Markup

from mofe.artifacts.metrics import Metrics, Result
from mofe.artifacts.model import History
from mofe.artifacts.partition import Partition
from mofe.artifacts.scores import ScoreTable
from mofe.artifacts.tables import vectors
from mofe.detection.metrics import roc_points, threshold_at_tpr
from mofe.report.feature_map import feature_map
from mofe.report.figures import colour_of
from mofe.report.plots import class_plot, confusion_plot, histogram, roc_plot, training_plot
from mofe.report.shell import environment

PRIMARY = "knn"
"""Score of the method itself, which the plots show."""

MISTAKES = {
    "accepted": "Unknown, but accepted as known: the OOD images with the highest scores",
    "rejected": "Known, but rejected as unknown: the ID test images with the lowest scores",
    "misclassified": "Known, but predicted as another class: the ID test images with the highest scores",
    "borderline": "Borderline: the images whose scores are nearest to the threshold",
}
SPACES = {
    "pretrained": "pre-trained backbone",
    "tuned": "fine-tuned",
    "expert": "inside the expert",
    "text": "by class names",
}


def render(metrics: Metrics, test: ScoreTable, ood: list[ScoreTable], partition: Partition, history: History) -> str:
    """Render the page as HTML.

    Args:
        metrics: metrics from evaluate.
        test: scores of the ID test set.
        ood: scores of the OOD sets.
        partition: experts and their classes.
        history: history of training.
    """
    template = environment().get_template("page.html")
    parameters = yaml.safe_dump(metrics.parameters, sort_keys=False, allow_unicode=True) if metrics.parameters else ""
    id_scores = test.table[PRIMARY].to_numpy()
    threshold = threshold_at_tpr(id_scores)
    scores_of = {table.info.dataset: table.table[PRIMARY].to_numpy() for table in ood}
    colours = colour_of(list(scores_of))
    primary = [result for result in metrics.results if result.score == PRIMARY]
    return template.render(
        metrics=metrics,
        primary=PRIMARY,
        mean_fpr95=fmean(result.fpr95 for result in primary),
        mean_auroc=fmean(result.auroc for result in primary),
        num_test=test.info.num_images,
        num_ood={table.info.dataset: table.info.num_images for table in ood},
        num_classes=len(partition.classes),
        rows=_rows(metrics),
        scores=list(dict.fromkeys(result.score for result in metrics.own)),
        comparison=_comparison(metrics),
        spaces=_spaces(metrics),
        roc=Markup(
            roc_plot(
                {name: roc_points(id_scores, values) for name, values in scores_of.items()},
                {result.ood: result.auroc for result in primary},
            )
        ),
        histograms=[
            Markup(histogram(id_scores, values, threshold, name, colours[name], PRIMARY))
            for name, values in scores_of.items()
        ],
        confusion=Markup(confusion_plot(_confusion(test, partition))) if partition.num_experts > 1 else None,
        experts=_experts(metrics, partition),
        senses=partition.senses_in_words(),
        training=Markup(training_plot(history.epochs)) if len(history.epochs) > 1 else None,
        layer_rates=_layer_rates(history),
        classes=Markup(_class_plot(history, partition)) if len(history.epochs) > 1 else None,
        features=Markup(_feature_map(test, ood, partition)),
        mistakes=_mistakes([test, *ood], partition),
        parameters=parameters,
        parameters_file=base64.b64encode(parameters.encode()).decode(),
    )


def _rows(metrics: Metrics) -> list[dict[str, Any]]:
    """Rows of the result table: OOD sets, then averages; a cell has a score's metrics and flags of the best."""
    sets = list(dict.fromkeys(result.ood for result in metrics.own))
    value = {(result.ood, result.score): result for result in metrics.own}
    scores = list(dict.fromkeys(result.score for result in metrics.own))
    names = ("fpr95", "auroc", "aupr_in", "aupr_out", "fpr95_ood_positive")
    intervals = ("fpr95_interval", "auroc_interval")
    every = (*names, *intervals)
    rows: dict[str, list[dict[str, Any]]] = {
        name: [{n: getattr(value[name, score], n) for n in every} for score in scores] for name in sets
    }
    for label, group in metrics.averages.items():
        rows[label] = [{n: fmean(rows[name][i][n] for name in group) for n in names} for i in range(len(scores))]
    for cells in rows.values():
        for cell in cells:
            cell["best_fpr95"] = cell["fpr95"] == min(c["fpr95"] for c in cells)
            cell["best_auroc"] = cell["auroc"] == max(c["auroc"] for c in cells)
    return [{"name": name, "cells": cells, "is_average": name not in sets} for name, cells in rows.items()]


def _spaces(metrics: Metrics) -> dict[str, str]:
    """Titles of this run's feature spaces by name; ``text`` only if there is a text model."""
    has_text = any(result.score.startswith("text.") for result in metrics.results)
    return {name: title for name, title in SPACES.items() if name != "text" or has_text}


def _comparison(metrics: Metrics) -> list[dict[str, Any]]:
    """Rows of the baselines, the best first: mean FPR95 and AUROC over the OOD sets in each feature space."""
    by_score: dict[str, list[Result]] = {}
    for result in metrics.results:
        by_score.setdefault(result.score, []).append(result)
    means: dict[str, dict[str, Any]] = {
        score: {"fpr95": fmean(r.fpr95 for r in results), "auroc": fmean(r.auroc for r in results), "sets": results}
        for score, results in by_score.items()
    }
    if not any("." in score for score in means):
        return []
    best_fpr95, best_auroc = min(m["fpr95"] for m in means.values()), max(m["auroc"] for m in means.values())
    for mean in means.values():
        mean |= {"best_fpr95": mean["fpr95"] == best_fpr95, "best_auroc": mean["auroc"] == best_auroc}
    spaces = _spaces(metrics)
    names = dict.fromkeys(score.partition(".")[2] for score in means if "." in score)
    rows: list[dict[str, Any]] = [
        {"name": name, "cells": [means.get(f"{space}.{name}") for space in spaces], "is_own": False} for name in names
    ]
    cells = [means[PRIMARY] if space == "expert" else None for space in spaces]
    own = {"name": f"this detector: {PRIMARY}", "cells": cells, "is_own": True}
    return sorted([own, *rows], key=lambda row: -max(cell["auroc"] for cell in row["cells"] if cell))


def _confusion(test: ScoreTable, partition: Partition) -> np.ndarray:
    """Number of images of expert i (row) that the router sent to expert j (column)."""
    true = np.array(partition.expert_of_class)[test.table["label"].to_numpy()]
    counts_EE = np.zeros((partition.num_experts, partition.num_experts), int)
    np.add.at(counts_EE, (true, test.table["expert"].to_numpy()), 1)
    return counts_EE


def _experts(metrics: Metrics, partition: Partition) -> list[dict[str, Any]]:
    return [
        {
            "number": found.expert,
            "seed": partition.seeds[found.expert].synset if partition.seeds else "",
            "classes": [
                (partition.names[c], metrics.class_accuracy.get(partition.classes[c]))
                for c in partition.classes_of(found.expert)
            ],
            "found": found,
        }
        for found in metrics.experts
    ]


def _layer_rates(history: History) -> list[dict[str, Any]]:
    """Rows of the layers' learning rates, from the top down: share of the peak, highest rate, last rate."""
    epochs = [epoch for epoch in history.epochs if epoch.layer_rates]
    if not epochs:
        return []
    fastest = max(epochs, key=lambda epoch: epoch.learning_rate).layer_rates
    peak = max(fastest.values())
    rows = [
        {"layer": layer, "share": rate / peak if peak else None, "highest": rate, "last": epochs[-1].layer_rates[layer]}
        for layer, rate in fastest.items()
    ]
    return rows[::-1]


def _class_plot(history: History, partition: Partition) -> str:
    """Plot the classes by expert, those of one expert by their last accuracy."""
    last = history.epochs[-1].class_accuracy
    groups = [sorted(partition.classes_of(e), key=lambda c: -last[c]) for e in range(partition.num_experts)]
    return class_plot(history.epochs, [c for group in groups for c in group], [len(group) for group in groups])


def _spread(table: pa.Table, rows: int) -> pa.Table:
    """At most ``rows`` rows, evenly spaced in the table."""
    return table.take(np.unique(np.linspace(0, table.num_rows - 1, rows).round().astype(int)))


def _feature_map(test: ScoreTable, ood: list[ScoreTable], partition: Partition) -> str:
    """Map the stored sample of the ID test set, and as many images of all OOD sets together."""
    share = -(-test.embeddings.num_rows // len(ood))
    tables = [test.embeddings, *(_spread(table.embeddings, share) for table in ood)]
    labels = test.embeddings["label"].to_numpy()
    unknown = np.full(sum(table.num_rows for table in tables[1:]), -1)
    sets = [table.info.dataset for table, kept in zip(ood, tables[1:], strict=True) for _ in range(kept.num_rows)]
    titles = {"before": "pre-trained backbone", "after": "fine-tuned"}
    spaces = {title: np.concatenate([vectors(t[column]) for t in tables]) for column, title in titles.items()}
    experts = np.concatenate([np.array(partition.expert_of_class)[labels], unknown])
    return feature_map(spaces, experts, [""] * len(labels) + sets)


def _mistakes(tables: list[ScoreTable], partition: Partition) -> list[dict[str, Any]]:
    """Galleries, one for each data set and kind of mistake, with their images."""
    galleries = []
    for table in tables:
        rows = table.gallery.to_pylist()
        for kind, title in MISTAKES.items():
            chosen = [row for row in rows if row["kind"] == kind]
            if chosen:
                images = [
                    {
                        "data": base64.b64encode(row["thumbnail"]).decode(),
                        "path": row["id"],
                        "predicted": partition.names[row["predicted"]],
                        "label": partition.names[row["label"]] if row["label"] >= 0 else "",
                        "expert": row["expert"],
                        "score": row["knn"],
                        "nearest": row["nearest"],
                        "nearest_class": partition.names[row["nearest_label"]],
                    }
                    for row in chosen
                ]
                galleries.append({"dataset": table.info.dataset, "kind": kind, "title": title, "images": images})
    return galleries
