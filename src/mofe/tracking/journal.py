"""Tracking in MLflow: one run per pipeline run, and a nested run per stage. A failure of tracking only logs a warning.

The environment chooses the server: ``MLFLOW_TRACKING_URI`` (nothing is tracked without it) and, where a platform has
created the run already, ``MLFLOW_RUN_ID``. The stages of one pipeline run share ``KFP_RUN_ID``.

A stage makes events, and :mod:`mofe.tracking.mlflow_store` sends them to MLflow. Events that cannot be sent are kept in
a journal, a file of JSON lines in the folder ``MOFE_TRACKING_FOLDER`` (any URI). The stage tries again, at the latest
at its end; ``mofe report --sync`` sends the events that are still left. Sending a journal twice changes nothing.

Importing MLflow takes seconds, so the local runner sets ``MOFE_TRACKING_CARRIED``. Its stages then only write journals,
and one process of the runner sends the events of all stages.
"""

import json
import os
import shlex
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from upath import UPath

from mofe.storage import locations, writing
from mofe.storage.file_names import file_name
from mofe.tracking.events import EXPERIMENT, PAUSE, Event, log, warn

if TYPE_CHECKING:
    from mofe.tracking.mlflow_store import StageSender

MAX_CHARACTERS = 500


class StageRun:
    """Takes the figures of a stage; no method raises an error when the server fails.

    Args:
        journal: file for events that could not be sent; None where nothing is tracked.
        carried: whether another process sends the events.
    """

    def __init__(self, journal: UPath | None, carried: bool = False):
        self.journal = journal
        self._events: list[Event] = []
        self._sent = 0
        self._sender: StageSender | None = None
        self._silent_until = float("inf") if carried else 0.0
        self._kept = self._warned = False

    def event(self, kind: str, **content: Any) -> None:
        """Send an event, or keep it in the journal."""
        if self.journal is not None:
            self._events.append({"kind": kind, "time": int(time.time() * 1000), **content})
            if time.monotonic() >= self._silent_until:
                self._send()
            if self._sent < len(self._events):
                self._keep(self.journal)

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Log figures, all of one step."""
        self.event("metrics", values={name: float(value) for name, value in values.items()}, step=step)

    def file(self, uri: locations.Location) -> None:
        """Log a file as an artifact."""
        self.event("file", path=str(locations.resolve(uri)))

    def detector(self, uri: locations.Location, module: str) -> None:
        """Log the detector at ``uri`` as a model that MLflow serves with the code of ``module``."""
        self.event("detector", path=str(locations.resolve(uri)), module=module)

    def end(self, status: str) -> None:
        """Send the last event, and try a last time to send the events that are kept."""
        if self._silent_until != float("inf"):
            self._silent_until = 0.0
        self.event("end", status=status)
        if self.journal is None or not self._kept or self._silent_until == float("inf"):
            return
        if self._sent == len(self._events):
            log.warning("tracking in MLflow works again: everything has been sent")
            try:
                self.journal.unlink()
            except Exception as error:
                log.warning("%s was sent, but cannot be removed: %s", self.journal, error)
        else:
            self._keep_files(self.journal)
            folder = shlex.quote(str(self.journal.parent))
            log.warning("%d events for MLflow are kept; send them by: mofe report --sync %s", len(self._events), folder)

    def _send(self) -> None:
        try:
            if self._sender is None:
                from mofe.tracking.mlflow_store import Store

                self._sender = Store().stage()
            for event in self._events[self._sent :]:
                self._sender.take(event)
                self._sent += 1
        except Exception as error:  # the stage treats a missing server, library or permission alike
            if not self._warned:
                warn(error)
            self._warned = True
            self._silent_until = time.monotonic() + PAUSE

    def _keep(self, journal: UPath) -> None:
        try:
            writing.write_bytes(journal, "".join(json.dumps(event) + "\n" for event in self._events).encode())
            self._kept = True
        except Exception as error:
            log.warning("events for MLflow cannot be kept at %s: %s", journal, error)

    def _keep_files(self, journal: UPath) -> None:
        """Copy the files to log beside the journal, because a pod's own disk is gone when its events are sent."""
        for event in self._events[self._sent :]:
            if event["kind"] == "file":
                file = locations.resolve(event["path"])
                copy = journal.parent / f"{journal.stem}-files" / file.name
                try:
                    writing.write_bytes(copy, locations.read_bytes(file, "file"))
                    event["path"] = str(copy)
                except Exception as error:
                    log.warning("%s cannot be kept for MLflow: %s", file, error)
        self._keep(journal)


@contextmanager
def stage_run(stage: str, parameters: Mapping[str, Any], *, label: str = "") -> Iterator[StageRun]:
    """Track a stage: its parameters at the start, its figures during the run, and whether it succeeded.

    Args:
        stage: name of the stage.
        parameters: parameters to log.
        label: text that distinguishes executions of one stage, for example the name of the data set.
    """
    name = f"{time.time_ns()}-{stage}-{file_name(label, r'[^A-Za-z0-9._-]') or 'all'}-{uuid.uuid4().hex[:6]}"
    run = StageRun(_journal(name), carried=bool(os.environ.get("MOFE_TRACKING_CARRIED")))
    shown = {name: locations.without_secrets(str(value))[:MAX_CHARACTERS] for name, value in parameters.items()}
    run.event(
        "start",
        stage=stage,
        label=label,
        parameters=shown,
        id=name,
        joined=os.environ.get("MLFLOW_RUN_ID", ""),
        experiment=os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT),
        pipeline_run=os.environ.get("KFP_RUN_ID", ""),
        pipeline_run_name=os.environ.get("MOFE_RUN_NAME", ""),
    )
    try:
        yield run
    except BaseException:
        run.end("FAILED")
        raise
    run.end("FINISHED")


def _journal(name: str) -> UPath | None:
    """File for the events of a stage; None where nothing is tracked."""
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        return None
    try:
        folder = os.environ.get("MOFE_TRACKING_FOLDER") or f"{tempfile.gettempdir()}/mofe-tracking"
        return locations.resolve(folder) / f"{name}.jsonl"
    except Exception as error:
        log.warning("nothing is tracked in MLflow, because events cannot be kept: %s", error)
        return None
