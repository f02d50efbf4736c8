"""Carries the events of stages to MLflow.

    python -m mofe.tracking.mlflow_store FOLDER PARENT

follows the event files in a folder until a file named ``end`` appears there, or the process PARENT is gone: it is what
the local runner starts beside the stages. The journals stay in the folder, marked as sent.
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
from importlib.util import find_spec
from pathlib import Path
from typing import Any

# a server that is down should cost seconds, not the minutes of MLflow's defaults; read when MLflow is imported
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
# a stage's log is for what the stage has to say
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

from mlflow import MlflowClient
from mlflow.entities import LoggedModelStatus, Metric, Param
from upath import UPath

from mofe import __version__
from mofe.errors import MofeError, in_one_line
from mofe.storage import locations
from mofe.tracking.events import PAUSE, Event, log, warn

PIPELINE_RUN = "mofe.pipeline_run"
EXECUTION = "mofe.execution"
"""Tags by which runs are found again."""
SENT = ".sent"
LAST_STAGE = "evaluate"
END = "end"


class Store:
    """An MLflow server or database. Everything sent to it twice is there once."""

    def __init__(self) -> None:
        logging.getLogger("alembic").setLevel(logging.WARNING)
        logging.getLogger("mlflow").setLevel(logging.ERROR)
        with _one_at_a_time():
            self.client = MlflowClient()
            self.client.search_experiments(max_results=1)  # makes the tables of a new database

    def stage(self) -> Callable[[Event], None]:
        """Takes the events of one stage."""
        start: Event = {}
        run_id = parent = ""

        def take(event: Event) -> None:
            nonlocal start, run_id, parent
            kind = event["kind"]
            if kind == "start":
                start = event
                run_id, parent = self._run_of(start)
                # in a run of the platform's, the names of the component's inputs are taken
                prefix = f"mofe.{start['stage']}." if start["joined"] else ""
                params = [Param(prefix + name, value) for name, value in start["parameters"].items()]
                self.client.log_batch(run_id, params=params)
                return
            is_last = start["stage"] == LAST_STAGE
            targets = [run_id, parent] if is_last and parent else [run_id]
            if kind == "metrics":
                metrics = [Metric(name, value, event["time"], event["step"]) for name, value in event["values"].items()]
                for target in targets:
                    self.client.log_batch(target, metrics=metrics)
            elif kind == "file":
                for target in targets:
                    self._log_file(target, event["path"])
            elif kind == "detector":
                try:
                    self._log_detector(run_id, event["path"], event["module"])
                except Exception as error:
                    self.client.get_run(run_id)  # fails too if it is the server: then all is tried again
                    warn(error)
            elif kind == "end" and not start["joined"]:
                self.client.set_terminated(run_id, event["status"], event["time"])
                if parent and (is_last or event["status"] == "FAILED"):
                    self.client.set_terminated(parent, event["status"], event["time"])

        return take

    def _run_of(self, start: Event) -> tuple[str, str]:
        """The run of a stage and the run of its pipeline, found or made; of a run that is joined there is no parent."""
        if start["joined"]:
            return str(self.client.get_run(start["joined"]).info.run_id), ""
        with _one_at_a_time():
            found = self.client.get_experiment_by_name(start["experiment"])
            experiment = (
                found.experiment_id
                if found
                else self.client.create_experiment(start["experiment"], artifact_location=_beside_store())
            )
            parent = ""
            if start["pipeline_run"]:
                name = start["pipeline_run_name"] or start["pipeline_run"]
                parent = self._tagged(experiment, PIPELINE_RUN, start["pipeline_run"], name, start["time"])
        tags = {"mofe.stage": start["stage"], **({"mlflow.parentRunId": parent} if parent else {})}
        name = f"{start['stage']} {start['label']}".strip()
        return self._tagged(experiment, EXECUTION, start["id"], name, start["time"], tags), parent

    def _tagged(
        self, experiment: str, tag: str, value: str, name: str, time: int, tags: dict[str, str] | None = None
    ) -> str:
        """The one run with this tag; of two that are made at the same moment, the older one stays."""

        def found() -> list[Any]:
            runs = self.client.search_runs([experiment], f"tags.`{tag}` = '{value}'")
            return sorted(runs, key=lambda run: (run.info.start_time, run.info.run_id))

        if not found():
            own = self.client.create_run(experiment, time, {tag: value, **(tags or {})}, run_name=name)
            if found()[0].info.run_id != own.info.run_id:
                self.client.delete_run(own.info.run_id)
        return str(found()[0].info.run_id)

    def _log_detector(self, run_id: str, uri: str, module: str) -> None:
        """As a model of MLflow's; only one that lies on this machine, with the server elsewhere, is copied into it."""
        import mlflow
        import mlflow.pyfunc  # needs pandas, which only the image of index has
        from mlflow.models import Model, ModelSignature
        from mlflow.types import ColSpec, Schema

        path = locations.resolve(uri)
        if not locations.kind(path):
            log.warning("%s was to be logged in MLflow but is gone", path)
            return
        experiment = self.client.get_run(run_id).info.experiment_id
        logged = self.client.search_logged_models([experiment], f"source_run_id = '{run_id}'")
        if any(model.status == LoggedModelStatus.READY for model in logged):
            return
        for model in logged:  # begun, and not finished
            self.client.delete_logged_model(model.model_id)
        here = locations.is_local(path) and not _is_database()
        place: dict[str, Any] = {
            "artifacts" if here else "model_config": {"detector": path.path if here else str(path)}
        }
        quick = os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"]
        os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = "600"  # a server answers when it has stored a file
        try:
            mlflow.set_experiment(experiment_id=experiment)  # in which, not in the run's, a model is made
            Model.log(
                None,  # a path, which MLflow 3 has no more use for
                name="detector",
                flavor=mlflow.pyfunc,
                run_id=run_id,
                python_model=str(_file_of(module)),
                signature=ModelSignature(inputs=Schema([ColSpec("binary", "image")])),
                pip_requirements=[f"mofe=={__version__}"],
                **place,
            )
        finally:
            os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = quick

    def _log_file(self, run_id: str, uri: str) -> None:
        path = locations.resolve(uri)
        if not locations.kind(path):
            log.warning("%s was to be logged in MLflow but is gone", path)
            return
        suffix = {"report": ".html", "metrics": ".json"}.get(path.name, "")  # Kubeflow's outputs have no suffix
        with tempfile.TemporaryDirectory() as folder:
            local = Path(folder) / (path.name + suffix)
            local.write_bytes(locations.read_bytes(path, "file"))
            self.client.log_artifact(run_id, str(local))


def _file_of(module: str) -> Path:
    """The source file of a module, which is not imported."""
    spec = find_spec(module)
    assert spec is not None and spec.origin is not None, module
    return Path(spec.origin)


def _is_database() -> bool:
    return os.environ["MLFLOW_TRACKING_URI"].startswith("sqlite:///")


def _beside_store() -> str | None:
    """Where a local database keeps its artifacts: in a folder beside it, not in whatever the working directory is."""
    if not _is_database():
        return None  # a server has its own place
    return (
        Path(os.environ["MLFLOW_TRACKING_URI"].removeprefix("sqlite:///")).resolve().parent / "mlartifacts"
    ).as_uri()


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Two processes must not create the tables of one SQLite store at the same time."""
    if not _is_database():
        yield
        return
    database = Path(os.environ["MLFLOW_TRACKING_URI"].removeprefix("sqlite:///"))
    database.parent.mkdir(parents=True, exist_ok=True)
    with database.with_name(f".{database.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def follow(folder: Path, parent: int) -> None:
    """Carry the events in ``folder`` as they come, until the file ``end`` is there, or this process has another parent.

    While the server fails it is left alone for a while, and tried a last time at the end.
    """
    store: Store | None = None
    stages: dict[Path, tuple[Callable[[Event], None], int]] = {}
    silent_until = 0.0
    while True:
        ended = (folder / END).exists() or os.getppid() != parent
        if ended or time.monotonic() >= silent_until:
            try:
                store = store or Store()
                for file in sorted(folder.glob("*.jsonl")):
                    take, done = stages.get(file) or (store.stage(), 0)
                    for event in _events(file.read_bytes())[done:]:
                        take(event)
                        done += 1
                        stages[file] = take, done
            except Exception as error:
                if ended:
                    raise
                warn(error)
                silent_until = time.monotonic() + PAUSE
            else:
                if ended:
                    for file in stages:
                        file.rename(f"{file}{SENT}")
                    return
        time.sleep(0.3)


def send_journals(folder: UPath) -> tuple[int, int]:
    """Send the journals anywhere under ``folder`` and mark them as sent.

    Returns:
        How many journals and events were sent.

    Raises:
        MofeError: MLflow does not take them; they are kept.
    """
    with locations.access(folder, "tracking folder"):
        journals = sorted(name for name in folder.fs.find(folder.path) if name.endswith(".jsonl"))
    sent = 0
    try:
        store = Store() if journals else None
        for journal in journals:
            assert store is not None
            take = store.stage()
            events = _events(folder.fs.cat_file(journal))
            for event in events:
                take(event)
            sent += len(events)
            if events and events[-1]["kind"] == "end":  # else its stage may still be running
                folder.fs.mv(journal, journal + SENT)
    except MofeError:
        raise
    except Exception as error:
        reason = locations.without_secrets(in_one_line(error)[:200])
        where = locations.without_secrets(os.environ["MLFLOW_TRACKING_URI"])
        raise MofeError(f"MLflow at {where} does not take what is in {folder}, which is kept: {reason}") from error
    return len(journals), sent


def _events(journal: bytes) -> list[Event]:
    """The events in a journal; a line that is being written is left for later."""
    return [json.loads(line) for line in journal.splitlines(keepends=True) if line.endswith(b"\n")]


if __name__ == "__main__":
    try:
        follow(Path(sys.argv[1]), int(sys.argv[2]))
    except Exception as error:
        warn(error)
        sys.exit(1)
