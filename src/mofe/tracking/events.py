"""Events that stages send to MLflow, and the warning about a failure of tracking."""

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
"""Seconds without requests after a server has failed."""


def warn(error: Exception) -> None:
    """Log a warning, without secrets, that tracking has failed."""
    where = locations.without_secrets(os.environ.get("MLFLOW_TRACKING_URI", ""))
    reason = locations.without_secrets(in_one_line(error)[:200])
    log.warning("tracking in MLflow at %s failed: %s: %s", where, type(error).__name__, reason)
