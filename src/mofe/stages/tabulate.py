"""The tables of a comparison."""

from typing import Any

from mofe import storage, tracking, writing
from mofe.ablations import requested
from mofe.artifacts.metrics import Metrics
from mofe.report.comparison import compare, format_tables, render_tables


def tabulate(
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
        runs: what plan listed.
        tables: as given to plan.
        configurations: as given to plan.
        results: where to write the tables as JSON (path or URI of a file).
        report: where to write them as one self-contained HTML page.
    """
    with tracking.stage_run("tabulate", {"tables": ", ".join(tables), "runs": len(metrics)}) as run:
        measured = [Metrics.read_file(uri) for uri in metrics]
        compared = compare(requested(tables, configurations), runs, measured)
        writing.write_json(storage.resolve(results), [table.to_dict() for table in compared])
        writing.write_bytes(storage.resolve(report), render_tables(compared).encode())
        print(format_tables(compared))
        run.file(report)
