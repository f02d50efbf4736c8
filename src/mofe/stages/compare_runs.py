"""Makes the tables of a comparison."""

from typing import Any

from mofe.artifacts.metrics import Metrics
from mofe.report.configurations import requested
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
    """Compare runs with each other and with the paper: mean and standard deviation over seeds.

    Args:
        metrics: metrics files written by evaluate, one per run.
        runs: list of runs that plan_runs returned.
        tables: the value that plan_runs was given.
        configurations: the value that plan_runs was given.
        results: path or URI of the JSON file to write the tables to.
        report: path or URI of the self-contained HTML page to write the tables to.
    """
    with journal.stage_run("compare_runs", {"tables": ", ".join(tables), "runs": len(metrics)}) as run:
        measured = [Metrics.read_file(uri) for uri in metrics]
        compared = compare(requested(tables, configurations), runs, measured)
        writing.write_json(locations.resolve(results), [table.to_dict() for table in compared])
        writing.write_bytes(locations.resolve(report), render_tables(compared).encode())
        print(format_tables(compared))
        run.file(report)
