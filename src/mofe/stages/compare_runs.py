"""The tables of a comparison."""

from typing import Any

from mofe.artifacts.metrics import Metrics
from mofe.configurations import requested
from mofe.report.tables import compare, format_tables, render_tables
from mofe.storage import locations, writing
from mofe.tracking import journal


def compare_runs(
    metrics: list[str],
    runs: list[dict[str, Any]],
    tables: list[str],
    configurations: list[dict[str, Any]],
    *,
    results: str,
    report: str,
) -> None:
    """Set the runs of a comparison beside each other and beside the paper: mean and standard deviation over seeds.

    Args:
        metrics: metrics files written by evaluate, one a run.
        runs: what plan_runs listed.
        tables: as given to plan_runs.
        configurations: as given to plan_runs.
        results: where to write the tables as JSON (path or URI of a file).
        report: where to write them as one self-contained HTML page.
    """
    with journal.stage_run("compare_runs", {"tables": ", ".join(tables), "runs": len(metrics)}) as run:
        measured = [Metrics.read_file(uri) for uri in metrics]
        compared = compare(requested(tables, configurations), runs, measured)
        writing.write_json(locations.resolve(results), [table.to_dict() for table in compared])
        writing.write_bytes(locations.resolve(report), render_tables(compared).encode())
        print(format_tables(compared))
        run.file(report)
