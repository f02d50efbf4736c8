"""Tables that compare configurations with each other and with the paper: as values, as text, as a page."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, stdev
from typing import Any

from mofe.artifacts.metrics import Metrics
from mofe.artifacts.recipe import Recipe
from mofe.errors import MofeError
from mofe.report import paper
from mofe.report.configurations import Row, Table, name_of
from mofe.report.shell import environment, percent
from mofe.storage import locations
from mofe.storage.typed_json import read_json


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation over seeds; the latter is None for one seed."""

    mean: float
    std: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Compute the spread of the values of all seeds."""
        return cls(fmean(values), stdev(values) if len(values) > 1 else None)

    def percent(self) -> str:
        """Format in percent: ``12.34 ± 0.56``."""
        return f"{100 * self.mean:.2f}" + ("" if self.std is None else f" ± {100 * self.std:.2f}")


@dataclass(frozen=True)
class ComparedRow:
    """Results of a configuration under a score, fractions in [0, 1]; ``fpr95`` and ``auroc`` by OOD set and average."""

    label: str
    settings: dict[str, Any]
    score: str
    seeds: int
    id_accuracy: Spread
    router_accuracy: Spread
    fpr95: dict[str, Spread]
    auroc: dict[str, Spread]
    paper_fpr95: dict[str, float]
    """The printed figures, for those of the keys of ``fpr95`` that the paper has."""
    paper_auroc: dict[str, float]
    paper_average: tuple[float | None, float | None]
    """FPR95 and AUROC as the paper prints the average of its four OOD sets."""
    paper_id_accuracy: float | None


@dataclass(frozen=True)
class ComparedTable:
    """A table with its measured rows."""

    title: str
    id_data: str
    """ID data of the printed figures: ImageNet-1K or ImageNet-100."""
    rows: list[ComparedRow]

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain JSON values."""
        return asdict(self)


def read_tables(file: locations.Location) -> list[ComparedTable]:
    """Read the tables that compare_runs wrote; errors as for :func:`mofe.storage.typed_json.read_json`."""
    return read_json(file, list[ComparedTable], "comparison")


def compare(
    tables: Sequence[Table], runs: Sequence[Mapping[str, Any]], measured: Sequence[Metrics]
) -> list[ComparedTable]:
    """Fill each table with its measured results and the figures that the paper prints.

    Args:
        tables: tables of configurations.
        runs: runs that stage plan_runs listed, with their names and the rows that each stands for.
        measured: metrics of every run; runs of one name differ by their seed. If their classes are those of
            ImageNet-100, the printed figures are for ImageNet-100, else for ImageNet-1K.

    Raises:
        MofeError: a row has no run.
    """
    run_of = {configuration: run for run in runs for configuration in run["rows"]}
    id_data = paper.id_data_of(measured[0].class_accuracy) or "ImageNet-1K"

    def filled(table: Table, row: Row) -> ComparedRow:
        run = run_of.get(name_of(row.settings))
        of_seeds = [metrics for metrics in measured if run and metrics.name == run["name"]]
        if not run or not of_seeds:
            raise MofeError(
                f"there is no run of the configuration {name_of(row.settings)!r}: run it, or leave its row out"
            )
        label = row.label + _reg_in_words(row, run["parameters"])
        return _compare_row(row._replace(label=label), of_seeds, paper.printed(table.paper, row.paper, id_data))

    return [ComparedTable(table.title, id_data, [filled(table, row) for row in table.rows]) for table in tables]


def _reg_in_words(row: Row, parameters: Mapping[str, Any]) -> str:
    """Say whether a run has Reg where the paper's row differs; "" where both agree."""
    regulariser, weight = (
        parameters.get(name, getattr(Recipe, name)) for name in ("regulariser", "regulariser_weight")
    )
    has_reg = regulariser != "none" and weight > 0
    if row.reg is None or has_reg == row.reg:
        return ""
    return " (here with Reg)" if has_reg else " (here without Reg)"


def _compare_row(row: Row, runs: Sequence[Metrics], printed: paper.Printed) -> ComparedRow:
    groups = {**{result.ood: [result.ood] for result in runs[0].results}, **runs[0].averages}

    def by_set(metric: str) -> dict[str, Spread]:
        of_runs = [{r.ood: getattr(r, metric) for r in run.results if r.score == row.score} for run in runs]
        return {
            name: Spread.of([fmean(values[ood] for ood in group) for values in of_runs])
            for name, group in groups.items()
        }

    return ComparedRow(
        label=row.label,
        settings=row.settings,
        score=row.score,
        seeds=len(runs),
        id_accuracy=Spread.of([run.id_accuracy for run in runs]),
        router_accuracy=Spread.of([run.router_accuracy for run in runs]),
        fpr95=by_set("fpr95"),
        auroc=by_set("auroc"),
        paper_fpr95=paper.beside(printed.fpr95, groups),
        paper_auroc=paper.beside(printed.auroc, groups),
        paper_average=(printed.fpr95.get(paper.AVERAGE), printed.auroc.get(paper.AVERAGE)),
        paper_id_accuracy=printed.id_accuracy,
    )


def pair(figures: Sequence[float | None]) -> str:
    """Format FPR95 and AUROC in percent: ``17.01 / 95.89``."""
    return " / ".join(map(percent, figures))


def format_tables(tables: Sequence[ComparedTable]) -> str:
    """Format tables as Markdown for the terminal or a page, one after the other, in percent.

    The paper's figures for an OOD set stand in brackets after the measured ones.
    """
    blocks = []
    for table in tables:
        sets = list(table.rows[0].fpr95)
        heads = (f"{name}: FPR95 ↓ / AUROC ↑" for name in sets)
        head = ["", "ID accuracy", *heads, f"paper, {table.id_data}: average"]
        lines = [head, ["---"] * len(head)]
        for row in table.rows:
            accuracy = _with_paper(row.id_accuracy.percent(), [row.paper_id_accuracy])
            cells = [
                _with_paper(
                    f"{row.fpr95[name].percent()} / {row.auroc[name].percent()}",
                    [row.paper_fpr95.get(name), row.paper_auroc.get(name)],
                )
                for name in sets
            ]
            lines.append([row.label, accuracy, *cells, pair(row.paper_average)])
        text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        blocks.append(f"{table.title} ({_seeds(table)})\n\n{text}")
    return "\n\n".join(blocks)


def _with_paper(measured: str, figures: Sequence[float | None]) -> str:
    """Add the paper's figures in brackets, if there are any."""
    return measured if set(figures) == {None} else f"{measured} [{pair(figures)}]"


def _seeds(table: ComparedTable) -> str:
    fewest = min(row.seeds for row in table.rows)
    return "1 seed" if fewest == 1 else f"mean ± standard deviation of {fewest} seeds"


def render_tables(tables: Sequence[ComparedTable]) -> str:
    """Render the page as HTML."""
    templates = environment()
    templates.filters["seeds"] = _seeds
    return templates.get_template("tables.html").render(tables=tables)
