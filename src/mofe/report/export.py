"""The results of a run as tables for other programs: CSV with every figure, LaTeX for a paper."""

import csv
import io
from statistics import fmean

from mofe.artifacts import Metrics, Result

FIGURES = ("fpr95", "auroc", "aupr_in", "aupr_out", "fpr95_ood_positive")


def as_csv(metrics: Metrics) -> str:
    """A row an OOD set and score: figures in [0, 1], and the ends of the 95 % intervals."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    ends = [f"{name}_{end}" for name in ("fpr95", "auroc") for end in ("low", "high")]
    rows.writerow(["score", "ood", *FIGURES, *ends])
    for result in metrics.results:
        intervals = [*(result.fpr95_interval or ("", "")), *(result.auroc_interval or ("", ""))]
        rows.writerow([result.score, result.ood, *(getattr(result, name) for name in FIGURES), *intervals])
    return text.getvalue()


def as_latex(metrics: Metrics) -> str:
    """A row a score: FPR95 and AUROC in percent for each OOD set and the averages, the best bold; needs booktabs."""
    sets = list(dict.fromkeys(result.ood for result in metrics.results))
    by_score: dict[str, dict[str, Result]] = {}
    for result in metrics.results:
        by_score.setdefault(result.score, {})[result.ood] = result
    cells = {}
    for score, results in by_score.items():
        groups = [[name] for name in sets] + list(metrics.averages.values())
        pairs = [(fmean(results[n].fpr95 for n in group), fmean(results[n].auroc for n in group)) for group in groups]
        cells[score] = [value for pair in pairs for value in pair]
    columns = list(zip(*cells.values(), strict=True))
    best = [(min, max)[i % 2](column) for i, column in enumerate(columns)]
    heads_of = [*sets, *metrics.averages]
    heads = " & ".join(rf"\multicolumn{{2}}{{c}}{{{_escaped(name)}}}" for name in heads_of)
    lines = [
        rf"\begin{{tabular}}{{l{'rr' * len(heads_of)}}}",
        r"\toprule",
        rf" & {heads} \\",
        "score" + r" & FPR95 $\downarrow$ & AUROC $\uparrow$" * len(heads_of) + r" \\",
        r"\midrule",
    ]
    for score, values in cells.items():
        shown = [
            rf"\textbf{{{100 * value:.2f}}}" if value == top else f"{100 * value:.2f}"
            for value, top in zip(values, best, strict=True)
        ]
        lines.append(rf"{_escaped(score)} & {' & '.join(shown)} \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _escaped(name: str) -> str:
    return "".join(f"\\{letter}" if letter in "#$%&_{}" else letter for letter in name)
