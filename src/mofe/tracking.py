"""Tracking in MLflow: one run per pipeline run, a nested run per stage. Tracking that fails warns, and never more.

Where it goes is decided by the environment: ``MLFLOW_TRACKING_URI`` (nothing is tracked without it) and, where a
platform has made the run already, ``MLFLOW_RUN_ID``. The stages of one pipeline run find each other by ``KFP_RUN_ID``.

A stage writes down events; :mod:`mofe.tracking_store` carries them to MLflow. It costs seconds to import MLflow, so the
local runner gives the stages a folder, ``MOFE_TRACKING_FOLDER``, where they leave their events in files, and carries
them all in one process of its own. Elsewhere a stage carries its own.
"""

import json
import logging
import os
import re
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mofe import storage

log = logging.getLogger(__name__)

Event = dict[str, Any]
MOST_CHARACTERS = 500
USER_INFO = re.compile(r"(?<=://)[^/@\s]+@")
"""User name and password in a URL, which are never written down."""


class StageRun:
    """Where a stage leaves its figures; every method is safe to call whatever the state of the server."""

    def __init__(self, send: Callable[[Event], None] | None):
        self._send = send

    def event(self, kind: str, **content: Any) -> None:
        """Hand on an event; the first failure ends the tracking of this stage with a warning."""
        if self._send is None:
            return
        try:
            self._send({"kind": kind, "time": int(time.time() * 1000), **content})
        except Exception as error:  # no server, no library, no permission: all the same to the stage
            self._send = None
            warn(error)

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Log figures, all of one step."""
        self.event("metrics", values={name: float(value) for name, value in values.items()}, step=step)

    def file(self, uri: storage.Location) -> None:
        """Log a file as an artifact."""
        self.event("file", path=str(storage.resolve(uri)))


def warn(error: Exception) -> None:
    """Say once, without secrets, that tracking has failed."""
    where = USER_INFO.sub("", os.environ.get("MLFLOW_TRACKING_URI", ""))
    reason = USER_INFO.sub("", " ".join(str(error).split())[:200])
    log.warning("tracking in MLflow at %s failed and stops here: %s: %s", where, type(error).__name__, reason)


@contextmanager
def stage_run(stage: str, parameters: Mapping[str, Any], *, label: str = "") -> Iterator[StageRun]:
    """Track a stage: its parameters now, its figures as it goes, and whether it succeeded.

    Args:
        stage: its name.
        parameters: what it was asked to do.
        label: tells executions of one stage apart, for example the data set.
    """
    run = StageRun(_sender(stage, label))
    shown = {name: USER_INFO.sub("", str(value))[:MOST_CHARACTERS] for name, value in parameters.items()}
    run.event("start", stage=stage, label=label, parameters=shown)
    try:
        yield run
    except BaseException:
        run.event("end", status="FAILED")
        raise
    run.event("end", status="FINISHED")


def _sender(stage: str, label: str) -> Callable[[Event], None] | None:
    """What carries this stage's events, or None where nothing is tracked."""
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        return None
    if folder := os.environ.get("MOFE_TRACKING_FOLDER"):
        file = Path(folder) / f"{time.time_ns()}-{stage}-{label or 'all'}-{uuid.uuid4().hex[:6]}.jsonl"
        return lambda event: _append(file, event)
    try:
        from mofe.tracking_store import Store

        return Store().stage()
    except Exception as error:
        warn(error)
        return None


def _append(file: Path, event: Event) -> None:
    with file.open("a") as lines:
        lines.write(json.dumps(event) + "\n")
