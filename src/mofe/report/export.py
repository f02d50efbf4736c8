"""Export of the results of a run, or of a comparison of runs: CSV with every figure, LaTeX for a paper."""

import csv
import io
from collections.abc import Iterable, Sequence
from statistics import fmean

from mofe.artifacts.metrics import Metrics, Result
from mofe.report.shell import percent
from mofe.report.tables import ComparedTable, Spread

FIGURES = ("fpr95", "auroc", "aupr_in", "aupr_out", "fpr95_ood_positive")


def as_csv(metrics: Metrics) -> str:
    """CSV with a row for each OOD set and score: figures in [0, 1], and the ends of the 95 % intervals."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    ends = [f"{name}_{end}" for name in ("fpr95", "auroc") for end in ("low", "high")]
    rows.writerow(["score", "ood", *FIGURES, *ends])
    for result in metrics.results:
        intervals = [*(result.fpr95_interval or ("", "")), *(result.auroc_interval or ("", ""))]
        rows.writerow([result.score, result.ood, *(getattr(result, name) for name in FIGURES), *intervals])
    return text.getvalue()


def as_latex(metrics: Metrics) -> str:
    """LaTeX table, one row per score: FPR95 and AUROC in percent by OOD set and average, best bold; uses booktabs."""
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
    heads = " & ".join(rf"\multicolumn{{2}}{{c}}{{{_escape(name)}}}" for name in heads_of)
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
        lines.append(rf"{_escape(score)} & {' & '.join(shown)} \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def tables_as_csv(tables: Sequence[ComparedTable]) -> str:
    """CSV with a row for each configuration, score and OOD set: mean and standard deviation over seeds, in [0, 1].

    The last columns hold the paper's figures; those of its average are the same for every OOD set of a row.
    """
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    measured = [f"{name}_{part}" for name in ("id_accuracy", "fpr95", "auroc") for part in ("mean", "std")]
    printed = [f"paper_{name}" for name in ("id_accuracy", "fpr95", "auroc", "average_fpr95", "average_auroc")]
    lines.writerow(["table", "row", "score", "seeds", "ood", *measured, "paper_id_data", *printed])
    for table in tables:
        for row in table.rows:
            for ood in row.fpr95:
                spreads = (row.id_accuracy, row.fpr95[ood], row.auroc[ood])
                values = [value for spread in spreads for value in (spread.mean, spread.std)]
                by_set = (row.paper_fpr95.get(ood), row.paper_auroc.get(ood))
                lines.writerow([table.title, row.label, row.score, row.seeds, ood, *values,
                                table.id_data, row.paper_id_accuracy, *by_set, *row.paper_average])  # fmt: skip
    return text.getvalue()


def tables_as_latex(tables: Sequence[ComparedTable]) -> str:
    """One LaTeX tabular per table, in percent: mean ± standard deviation, the paper's figures below each row.

    The paper's averages stand last. Uses booktabs.
    """

    def line(cells: Iterable[str]) -> str:
        return " & ".join(cells) + r" \\"

    def cell(spread: Spread) -> str:
        return spread.percent().replace("±", r"$\pm$")

    def printed(*values: float | None) -> list[str]:
        return [percent(value).replace("–", "--") for value in values]

    blocks = []
    for table in tables:
        sets = list(table.rows[0].fpr95)
        heads = [*map(_escape, sets), f"paper, {table.id_data}: average"]
        lines = [
            rf"% {table.title}",
            rf"\begin{{tabular}}{{lr{'rr' * len(heads)}}}",
            r"\toprule",
            line(["", "ID accuracy", *(rf"\multicolumn{{2}}{{c}}{{{head}}}" for head in heads)]),
            line(["", "", *[r"FPR95 $\downarrow$", r"AUROC $\uparrow$"] * len(heads)]),
            r"\midrule",
        ]
        for row in table.rows:
            figures = [cell(spread) for ood in sets for spread in (row.fpr95[ood], row.auroc[ood])]
            lines.append(line([_escape(row.label), cell(row.id_accuracy), *figures, *printed(*row.paper_average)]))
            if row.paper_fpr95:
                by_set = [f for ood in sets for f in (row.paper_fpr95.get(ood), row.paper_auroc.get(ood))]
                lines.append(line([r"\quad paper", *printed(row.paper_id_accuracy, *by_set), "", ""]))
        blocks.append("\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""]))
    return "\n".join(blocks)


def _escape(name: str) -> str:
    return "".join(f"\\{letter}" if letter in "#$%&_{}" else letter for letter in name)
