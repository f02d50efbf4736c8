"""The result table on the terminal."""

from statistics import fmean

from mofe.artifacts.metrics import Metrics


def format_table(metrics: Metrics) -> str:
    """Format ID accuracy, then FPR95 and AUROC in percent by OOD set and score, then their averages."""
    sets = list(dict.fromkeys(result.ood for result in metrics.own))
    scores = list(dict.fromkeys(result.score for result in metrics.own))
    value = {(result.ood, result.score): result for result in metrics.own}
    rows = {name: [(value[name, score].fpr95, value[name, score].auroc) for score in scores] for name in sets}
    for label, group in metrics.averages.items():
        columns = list(zip(*(rows[name] for name in group), strict=True))
        rows[label] = [(fmean(f for f, _ in column), fmean(a for _, a in column)) for column in columns]
    head = "FPR95 ↓ / AUROC ↑ (%)"
    wide = max(len(head), *(len(name) for name in rows))
    zero_shot = "" if metrics.zero_shot_accuracy is None else f", zero-shot accuracy {metrics.zero_shot_accuracy:.2%}"
    lines = [
        f"ID accuracy {metrics.id_accuracy:.2%}, router accuracy {metrics.router_accuracy:.2%}{zero_shot}",
        f"{head:{wide}}" + "".join(f"{score:>17}" for score in scores),
    ]
    for name, cells in rows.items():
        lines.append(f"{name:{wide}}" + "".join(f"{100 * fpr:8.2f} / {100 * auroc:6.2f}" for fpr, auroc in cells))
    return "\n".join(lines)
