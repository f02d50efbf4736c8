"""Carries the events of stages to MLflow.

    python -m mofe.tracking_store FOLDER

follows the event files in a folder until a file named ``end`` appears there: it is the process that the local runner
starts beside the stages. The events stay in the folder.
"""

import fcntl
import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# a server that is down should cost seconds, not the minutes of MLflow's defaults; read when MLflow is imported
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")

from mlflow import MlflowClient
from mlflow.entities import Metric, Param

from mofe import storage
from mofe.tracking import Event, warn

log = logging.getLogger(__name__)

EXPERIMENT = "mofe"
PIPELINE_RUN = "mofe.pipeline_run"
LAST_STAGE = "evaluate"
END = "end"


class Store:
    """An MLflow server or database, and the run of the pipeline in it."""

    def __init__(self) -> None:
        logging.getLogger("alembic").setLevel(logging.WARNING)
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        self.joined = os.environ.get("MLFLOW_RUN_ID", "")
        """A run that the platform made and will end: everything goes there."""
        self.parent = ""
        with _one_at_a_time():
            self.client = MlflowClient()
            if self.joined:
                self.client.get_run(self.joined)
                return
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
            found = self.client.get_experiment_by_name(name)
            self.experiment = (
                found.experiment_id if found else self.client.create_experiment(name, artifact_location=_beside_store())
            )
            if pipeline_run := os.environ.get("KFP_RUN_ID"):
                self.parent = self._parent(pipeline_run)

    def _parent(self, pipeline_run: str) -> str:
        """The run of the whole pipeline; of two stages that make it at the same moment, the older one's stays."""

        def found() -> list[Any]:
            runs = self.client.search_runs([self.experiment], f"tags.`{PIPELINE_RUN}` = '{pipeline_run}'")
            return sorted(runs, key=lambda run: (run.info.start_time, run.info.run_id))

        if not found():
            name = os.environ.get("MOFE_RUN_NAME", pipeline_run)
            own = self.client.create_run(self.experiment, run_name=name, tags={PIPELINE_RUN: pipeline_run})
            if found()[0].info.run_id != own.info.run_id:
                self.client.delete_run(own.info.run_id)
        return str(found()[0].info.run_id)

    def stage(self) -> Callable[[Event], None]:
        """Takes the events of one stage."""
        run_id = self.joined
        stage = ""

        def take(event: Event) -> None:
            nonlocal run_id, stage
            kind = event["kind"]
            if kind == "start":
                stage = event["stage"]
                if not self.joined:
                    tags = {"mofe.stage": stage, **({"mlflow.parentRunId": self.parent} if self.parent else {})}
                    name = f"{stage} {event['label']}".strip()
                    run = self.client.create_run(self.experiment, event["time"], tags, run_name=name)
                    run_id = run.info.run_id
                # in a run of the platform's, the names of the component's inputs are taken
                prefix = f"mofe.{stage}." if self.joined else ""
                params = [Param(prefix + name, value) for name, value in event["parameters"].items()]
                self.client.log_batch(run_id, params=params)
            elif kind == "metrics":
                metrics = [Metric(name, value, event["time"], event["step"]) for name, value in event["values"].items()]
                self.client.log_batch(run_id, metrics=metrics)
                if stage == LAST_STAGE and self.parent:
                    self.client.log_batch(self.parent, metrics=metrics)
            elif kind == "file":
                self._log_file(run_id, event["path"])
                if stage == LAST_STAGE and self.parent:
                    self._log_file(self.parent, event["path"])
            elif kind == "end" and not self.joined:
                self.client.set_terminated(run_id, event["status"], event["time"])
                if self.parent and (stage == LAST_STAGE or event["status"] == "FAILED"):
                    self.client.set_terminated(self.parent, event["status"], event["time"])

        return take

    def _log_file(self, run_id: str, uri: str) -> None:
        path = storage.resolve(uri)
        if not path.exists():
            log.warning("%s was to be logged in MLflow but is gone", path)
            return
        suffix = {"report": ".html", "metrics": ".json"}.get(path.name, "")  # Kubeflow's outputs have no suffix
        with tempfile.TemporaryDirectory() as folder:
            local = Path(folder) / (path.name + suffix)
            local.write_bytes(path.read_bytes())
            self.client.log_artifact(run_id, str(local))


def _beside_store() -> str | None:
    """Where a local database keeps its artifacts: in a folder beside it, not in whatever the working directory is."""
    uri = os.environ["MLFLOW_TRACKING_URI"]
    if not uri.startswith("sqlite:///"):
        return None  # a server has its own place
    return (Path(uri.removeprefix("sqlite:///")).resolve().parent / "mlartifacts").as_uri()


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


def follow(folder: Path) -> None:
    """Carry the events in ``folder`` as they come, until the file ``end`` is there and all has been carried."""
    store = Store()
    stages: dict[Path, tuple[Callable[[Event], None], int]] = {}
    while True:
        ended = (folder / END).exists()
        for file in sorted(folder.glob("*.jsonl")):
            take, done = stages.get(file) or (store.stage(), 0)
            lines = file.read_text().splitlines(keepends=True)
            whole = [line for line in lines if line.endswith("\n")]
            for line in whole[done:]:
                take(json.loads(line))
            stages[file] = take, len(whole)
        if ended:
            return
        time.sleep(0.3)


if __name__ == "__main__":
    try:
        follow(Path(sys.argv[1]))
    except Exception as error:
        warn(error)
        sys.exit(1)
