"""Tables that compare configurations with each other and with the paper: as values, as text, as a page."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, stdev
from typing import Any

from mofe.artifacts.metrics import Metrics
from mofe.configurations import Row, Table, name_of
from mofe.errors import MofeError
from mofe.report.shell import environment
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
    paper_fpr95: float | None
    paper_auroc: float | None


@dataclass(frozen=True)
class ComparedTable:
    """A table with its measured rows."""

    title: str
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
    """Fill each table with its measured results.

    Args:
        tables: tables of configurations.
        runs: runs that stage plan_runs listed, with their names and the rows that each stands for.
        measured: metrics of every run; runs of one name differ by their seed.

    Raises:
        MofeError: a row has no run.
    """
    name_of_run = {configuration: run["name"] for run in runs for configuration in run["rows"]}
    return [
        ComparedTable(table.title, [_compare_row(row, name_of_run, measured) for row in table.rows]) for table in tables
    ]


def _compare_row(row: Row, name_of_run: Mapping[str, str], measured: Sequence[Metrics]) -> ComparedRow:
    configuration = name_of(row.settings)
    runs = [run for run in measured if run.name == name_of_run.get(configuration)]
    if not runs:
        raise MofeError(f"there is no run of the configuration {configuration!r}: run it, or leave its row out")

    def by_set(metric: str) -> dict[str, Spread]:
        of_runs = [{r.ood: getattr(r, metric) for r in run.results if r.score == row.score} for run in runs]
        groups = {**{ood: [ood] for ood in of_runs[0]}, **runs[0].averages}
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
        paper_fpr95=row.paper_fpr95,
        paper_auroc=row.paper_auroc,
    )


def format_tables(tables: Sequence[ComparedTable]) -> str:
    """Format tables as Markdown for the terminal or a page, one after the other, in percent."""
    blocks = []
    for table in tables:
        sets = list(table.rows[0].fpr95)
        head = ["", "ID accuracy", *(f"{name}: FPR95 ↓ / AUROC ↑" for name in sets), "paper, ImageNet-1K"]
        lines = [head, ["---"] * len(head)]
        for row in table.rows:
            cells = [f"{row.fpr95[name].percent()} / {row.auroc[name].percent()}" for name in sets]
            paper = " / ".join("–" if p is None else f"{100 * p:.2f}" for p in (row.paper_fpr95, row.paper_auroc))
            lines.append([row.label, row.id_accuracy.percent(), *cells, paper])
        text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        blocks.append(f"{table.title} ({_seeds(table)})\n\n{text}")
    return "\n\n".join(blocks)


def _seeds(table: ComparedTable) -> str:
    fewest = min(row.seeds for row in table.rows)
    return "1 seed" if fewest == 1 else f"mean ± standard deviation of {fewest} seeds"


def render_tables(tables: Sequence[ComparedTable]) -> str:
    """Render the page as HTML."""
    templates = environment()
    templates.filters["seeds"] = _seeds
    return templates.get_template("tables.html").render(tables=tables)
