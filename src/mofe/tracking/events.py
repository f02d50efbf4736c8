"""What a stage hands on to MLflow, and how a failure of tracking is told."""

import logging
import os
from typing import Any

from mofe.errors import in_one_line
from mofe.storage import locations

log = logging.getLogger("mofe.tracking")

Event = dict[str, Any]
EXPERIMENT = "mofe"
DATABASE = "mlflow.db"
"""File of the local store, in the work folder."""
BESIDE = f"sqlite:///{DATABASE}"
"""URI of that store for a process whose working directory is the work folder, whose path a URI may not hold (``?``)."""
PAUSE = 600.0
"""Seconds for which a server that has failed is left alone."""


def warn(error: Exception) -> None:
    """Say, without secrets, that tracking has failed."""
    where = locations.without_secrets(os.environ.get("MLFLOW_TRACKING_URI", ""))
    reason = locations.without_secrets(in_one_line(error)[:200])
    log.warning("tracking in MLflow at %s failed: %s: %s", where, type(error).__name__, reason)
