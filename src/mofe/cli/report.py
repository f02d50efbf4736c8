"""``mofe report``: show the results of a run again."""

import os
import sys
from typing import Literal

import tyro

from mofe.cli.places import check_places
from mofe.errors import MofeError


def report(
    folder: tyro.conf.Positional[str], format: Literal["table", "csv", "latex"] = "table", sync: bool = False
) -> None:
    """Show the results of a run again, or send missing events to MLflow.

    Example: mofe report runs/params --format latex > table.tex

    Args:
        format: table (the detector's own scores), or csv or latex (also the scores of the baselines).
        folder: folder of the run (--work), path or URI; with --sync also any folder with journals, for example
            MOFE_TRACKING_FOLDER.
        sync: send the events that were stored because MLflow at MLFLOW_TRACKING_URI was unreachable. Events that have
            been sent are not sent again.
    """
    from mofe.storage import locations
    from mofe.tracking.events import BESIDE, DATABASE

    check_places("FOLDER", folder)
    place = locations.resolve(folder)
    if sync:
        if "MLFLOW_TRACKING_URI" not in os.environ and locations.is_local(place) and (place / DATABASE).exists():
            os.environ["MLFLOW_TRACKING_URI"] = BESIDE
            os.chdir(place.path)
        if "MLFLOW_TRACKING_URI" not in os.environ:
            raise MofeError(f"the events in {folder} need an address: set MLFLOW_TRACKING_URI to that of MLflow")
        from mofe.tracking.mlflow_store import send_journals

        journals, events = send_journals(place)
        print(f"sent {events} events of {journals} stages to MLflow")
    elif locations.kind(place / "tables.json"):
        from mofe.report.export import tables_as_csv, tables_as_latex
        from mofe.report.tables import format_tables, read_tables

        shapes = {"table": lambda tables: format_tables(tables) + "\n", "csv": tables_as_csv, "latex": tables_as_latex}
        text = shapes[format](read_tables(place / "tables.json"))
        sys.stdout.buffer.write(text.encode())
    else:
        from mofe.artifacts.metrics import Metrics
        from mofe.report.export import as_csv, as_latex
        from mofe.report.text import format_table

        show = {"table": lambda metrics: format_table(metrics) + "\n", "csv": as_csv, "latex": as_latex}[format]
        sys.stdout.buffer.write(show(Metrics.read(place)).encode())
