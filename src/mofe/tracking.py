"""Tracking in MLflow: one run per pipeline run, a nested run per stage. Tracking that fails warns, and never more.

Where it goes is decided by the environment: ``MLFLOW_TRACKING_URI`` (nothing is tracked without it) and, where a
platform has made the run already, ``MLFLOW_RUN_ID``. The stages of one pipeline run find each other by ``KFP_RUN_ID``.
"""

import fcntl
import logging
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mofe import storage

log = logging.getLogger(__name__)

EXPERIMENT = "mofe"
PIPELINE_RUN = "mofe.pipeline_run"
LAST_STAGE = "evaluate"
MOST_CHARACTERS = 500
_USER_INFO = re.compile(r"(?<=://)[^/@\s]+@")


class StageRun:
    """Where a stage leaves its figures; every method is safe to call whatever the state of the server."""

    def __init__(self, client: Any = None, run_id: str = ""):
        self._client = client
        self._run_id = run_id

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Log figures, all of one step."""
        from_mlflow = self._entity
        self._try(
            lambda: self._client.log_batch(
                self._run_id,
                metrics=[
                    from_mlflow("Metric")(name, float(value), int(time.time() * 1000), step or 0)
                    for name, value in values.items()
                ],
            )
        )

    def parameters(self, values: Mapping[str, Any]) -> None:
        """Log what the stage was asked to do; user names and passwords in URLs are left out."""
        params = [
            self._entity("Param")(name, _USER_INFO.sub("", str(value))[:MOST_CHARACTERS])
            for name, value in values.items()
            if self._client
        ]
        self._try(lambda: self._client.log_batch(self._run_id, params=params))

    def file(self, uri: storage.Location) -> None:
        """Log a file as an artifact."""

        def send() -> None:
            path = storage.resolve(uri)
            with tempfile.TemporaryDirectory() as folder:
                local = Path(folder) / path.name
                local.write_bytes(path.read_bytes())
                self._client.log_artifact(self._run_id, str(local))

        self._try(send)

    def finish(self, status: str) -> None:
        """End the run as FINISHED or FAILED."""
        self._try(lambda: self._client.set_terminated(self._run_id, status))

    @staticmethod
    def _entity(name: str) -> Any:
        from mlflow import entities

        return getattr(entities, name)

    def _try(self, action: Callable[[], None]) -> None:
        if self._client is None:
            return
        try:
            action()
        except Exception as error:  # whatever a tracking server does, the stage goes on
            self._client = None
            _warn(error)


def _warn(error: Exception) -> None:
    where = _USER_INFO.sub("", os.environ.get("MLFLOW_TRACKING_URI", ""))
    reason = _USER_INFO.sub("", str(error).strip().splitlines()[0][:200] if str(error).strip() else "")
    log.warning("tracking in MLflow at %s failed and stops here: %s: %s", where, type(error).__name__, reason)


@contextmanager
def stage_run(stage: str, parameters: Mapping[str, Any], *, label: str = "") -> Iterator[StageRun]:
    """Track a stage: its parameters now, its figures as it goes, and whether it succeeded.

    Args:
        stage: its name.
        parameters: what it was asked to do.
        label: tells executions of one stage apart, for example the data set.
    """
    run, parent = _begin(stage, label)
    run.parameters(parameters)
    try:
        yield run
    except BaseException:
        run.finish("FAILED")
        if parent is not None:
            parent.finish("FAILED")
        raise
    run.finish("FINISHED")
    if parent is not None and stage == LAST_STAGE:
        parent.finish("FINISHED")


def _begin(stage: str, label: str) -> tuple[StageRun, StageRun | None]:
    """The stage's run, and its parent if that is ours to end."""
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        return StageRun(), None
    # a server that is down should cost seconds, not the minutes of MLflow's defaults
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    try:
        with _one_at_a_time():
            from mlflow import MlflowClient

            logging.getLogger("alembic").setLevel(logging.WARNING)
            client = MlflowClient()
            if joined := os.environ.get("MLFLOW_RUN_ID"):
                client.get_run(joined)
                return _Joined(client, joined), None
            experiment = _experiment(client)
            pipeline_run = os.environ.get("KFP_RUN_ID")
            parent = _parent(client, experiment, pipeline_run) if pipeline_run else None
            tags = {"mlflow.parentRunId": parent} if parent else {}
            name = f"{stage} {label}".strip()
            run = client.create_run(experiment, run_name=name, tags={**tags, "mofe.stage": stage})
        return StageRun(client, run.info.run_id), StageRun(client, parent) if parent else None
    except Exception as error:  # no server, no library, no permission: all the same to the stage
        _warn(error)
        return StageRun(), None


class _Joined(StageRun):
    """A run that the platform made and will end; its names for parameters are taken, so ours carry a prefix."""

    def parameters(self, values: Mapping[str, Any]) -> None:
        super().parameters({f"mofe.{name}": value for name, value in values.items()})

    def finish(self, status: str) -> None:
        pass


def _experiment(client: Any) -> str:
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
    found = client.get_experiment_by_name(name)
    return str(found.experiment_id if found else client.create_experiment(name))


def _parent(client: Any, experiment: str, pipeline_run: str) -> str:
    """The run of the whole pipeline; of two stages that make it at the same moment, the older one's stays."""

    def found() -> list[Any]:
        query = f"tags.`{PIPELINE_RUN}` = '{pipeline_run}'"
        return list(client.search_runs([experiment], query, order_by=["attributes.start_time ASC"]))

    if not found():
        name = os.environ.get("MOFE_RUN_NAME", pipeline_run)
        own = client.create_run(experiment, run_name=name, tags={PIPELINE_RUN: pipeline_run}).info.run_id
        oldest = min(found(), key=lambda run: (run.info.start_time, run.info.run_id)).info.run_id
        if own != oldest:
            client.delete_run(own)
    return str(min(found(), key=lambda run: (run.info.start_time, run.info.run_id)).info.run_id)


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Two processes must not create the tables of one SQLite store at the same time."""
    uri = os.environ["MLFLOW_TRACKING_URI"]
    if not uri.startswith("sqlite:///"):
        yield
        return
    database = Path(uri.removeprefix("sqlite:///"))
    database.parent.mkdir(parents=True, exist_ok=True)
    with database.with_name(f".{database.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
