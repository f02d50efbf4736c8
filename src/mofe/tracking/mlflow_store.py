"""Sends the events of stages to MLflow.

    python -m mofe.tracking.mlflow_store FOLDER PARENT

The local runner starts this command beside the stages. It sends the events of the journals in FOLDER until a file named
``end`` appears there, or the process PARENT has ended. The journals stay in the folder, marked as sent.
"""

import fcntl
import json
import logging
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

# a failed server should cost seconds and not minutes, as MLflow's defaults do; MLflow reads them when it is imported
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
# a stage's log should hold messages of the stage only
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
"""Tags that identify runs."""
SENT = ".sent"
LAST_STAGE = "evaluate"
END = "end"
POLL_INTERVAL = 0.3
"""Seconds between two listings of a folder."""


class Store:
    """An MLflow server or database. An event that is sent twice has the same effect as one."""

    def __init__(self) -> None:
        logging.getLogger("alembic").setLevel(logging.WARNING)
        logging.getLogger("mlflow").setLevel(logging.ERROR)
        with _lock_database():
            self.client = MlflowClient()
            self.client.search_experiments(max_results=1)  # makes the tables of a new database

    def stage(self) -> "StageSender":
        """Make a sender for the events of one stage."""
        return StageSender(self)

    def run_of(self, start: Event) -> tuple[str, str]:
        """Find or create the run of a stage and the run of its pipeline; return their ids.

        The second id is "" where there is no pipeline run, or where the stage joins a run of the platform.
        """
        if start["joined"]:
            return str(self.client.get_run(start["joined"]).info.run_id), ""
        with _lock_database():
            experiment = self._experiment(start["experiment"])
            parent = ""
            if start["pipeline_run"]:
                name = start["pipeline_run_name"] or start["pipeline_run"]
                parent = self._find_or_create(experiment, PIPELINE_RUN, start["pipeline_run"], name, start["time"])
        tags = {"mofe.stage": start["stage"], **({"mlflow.parentRunId": parent} if parent else {})}
        name = f"{start['stage']} {start['label']}".strip()
        return self._find_or_create(experiment, EXECUTION, start["id"], name, start["time"], tags), parent

    def _experiment(self, name: str) -> str:
        """The experiment of this name, found or made.

        A database in a folder that was moved or copied has one that keeps its files in the old place: it gets another,
        named after the new place.
        """
        place = _beside_store()
        found = self.client.get_experiment_by_name(name)
        if found and place and found.artifact_location != place:
            name = f"{name} in {_database().parent}"
            found = self.client.get_experiment_by_name(name)
        return str(found.experiment_id if found else self.client.create_experiment(name, artifact_location=place))

    def _find_or_create(
        self, experiment: str, tag: str, value: str, name: str, time: int, tags: dict[str, str] | None = None
    ) -> str:
        """Find or create the only run with this tag; if two processes create one at once, delete the newer one."""

        def find() -> list[Any]:
            runs = self.client.search_runs([experiment], f"tags.`{tag}` = '{value}'")
            return sorted(runs, key=lambda run: (run.info.start_time, run.info.run_id))

        if not find():
            own = self.client.create_run(experiment, time, {tag: value, **(tags or {})}, run_name=name)
            if find()[0].info.run_id != own.info.run_id:
                self.client.delete_run(own.info.run_id)
        return str(find()[0].info.run_id)

    def log_detector(self, run_id: str, uri: str, module: str) -> None:
        """Log the detector at ``uri`` as a model of MLflow, served with the code of ``module``.

        The model refers to the detector. It contains a copy only where the detector is on this machine and the store is
        a server.
        """
        import mlflow
        import mlflow.pyfunc  # needs pandas, which only the image of index has
        from mlflow.models import Model, ModelSignature
        from mlflow.types import ColSpec, Schema

        path = locations.resolve(uri)
        if not locations.kind(path):
            log.warning("the detector %s is not logged in MLflow, because it no longer exists", path)
            return
        experiment = self.client.get_run(run_id).info.experiment_id
        logged = self.client.search_logged_models([experiment], f"source_run_id = '{run_id}'")
        if any(model.status == LoggedModelStatus.READY for model in logged):
            return
        for model in logged:  # models of an attempt that did not finish
            self.client.delete_logged_model(model.model_id)
        here = locations.is_local(path) and not _is_database()
        place: dict[str, Any] = {
            "artifacts" if here else "model_config": {"detector": path.path if here else str(path)}
        }
        with _allow_minutes():
            mlflow.set_experiment(experiment_id=experiment)  # MLflow makes a model there, not in the run's experiment
            Model.log(
                None,  # a path that MLflow 3 ignores
                name="detector",
                flavor=mlflow.pyfunc,
                run_id=run_id,
                python_model=str(_file_of(module)),
                signature=ModelSignature(inputs=Schema([ColSpec("binary", "image")])),
                pip_requirements=[f"mofe=={__version__}"],
                **place,
            )

    def log_file(self, run_id: str, uri: str) -> None:
        """Log the file at ``uri`` as an artifact of a run."""
        path = locations.resolve(uri)
        if not locations.kind(path):
            log.warning("the file %s is not logged in MLflow, because it no longer exists", path)
            return
        suffix = {"report": ".html", "metrics": ".json"}.get(path.name, "")  # Kubeflow's outputs have no suffix
        with tempfile.TemporaryDirectory() as folder:
            local = Path(folder) / (path.name + suffix)
            local.write_bytes(locations.read_bytes(path, "file"))
            self.client.log_artifact(run_id, str(local))


class StageSender:
    """Sends the events of one stage to a store, with one method per kind of event."""

    def __init__(self, store: Store):
        self.store = store
        self.client = store.client
        self.start: Event = {}
        self.run_id = self.parent = ""

    def take(self, event: Event) -> None:
        """Send an event; an event that is sent twice has the same effect as one."""
        by_kind: dict[str, Callable[[Event], None]] = {
            "start": self._begin,
            "metrics": self._log_metrics,
            "file": self._log_file,
            "detector": self._log_detector,
            "end": self._end,
        }
        if send := by_kind.get(event["kind"]):
            send(event)

    @property
    def _is_last(self) -> bool:
        return bool(self.start["stage"] == LAST_STAGE)

    @property
    def _targets(self) -> list[str]:
        """Ids of the runs that get the stage's figures; the figures of the last stage go to the pipeline's run too."""
        return [self.run_id, self.parent] if self._is_last and self.parent else [self.run_id]

    def _begin(self, event: Event) -> None:
        self.start = event
        self.run_id, self.parent = self.store.run_of(event)
        # in a run of the platform, the names of the component's inputs are already in use
        prefix = f"mofe.{event['stage']}." if event["joined"] else ""
        params = [Param(prefix + name, value) for name, value in event["parameters"].items()]
        self.client.log_batch(self.run_id, params=params)

    def _log_metrics(self, event: Event) -> None:
        metrics = [Metric(name, value, event["time"], event["step"]) for name, value in event["values"].items()]
        for target in self._targets:
            self.client.log_batch(target, metrics=metrics)

    def _log_file(self, event: Event) -> None:
        for target in self._targets:
            self.store.log_file(target, event["path"])

    def _log_detector(self, event: Event) -> None:
        try:
            self.store.log_detector(self.run_id, event["path"], event["module"])
        except Exception as error:
            self.client.get_run(self.run_id)  # also fails if the server is the cause, and the event is sent again later
            warn(error)

    def _end(self, event: Event) -> None:
        if self.start["joined"]:
            return
        self.client.set_terminated(self.run_id, event["status"], event["time"])
        if self.parent and (self._is_last or event["status"] == "FAILED"):
            self.client.set_terminated(self.parent, event["status"], event["time"])


def _file_of(module: str) -> Path:
    """Source file of a module, without an import of it."""
    spec = find_spec(module)
    assert spec is not None and spec.origin is not None, module
    return Path(spec.origin)


@contextmanager
def _allow_minutes() -> Iterator[None]:
    """Allow the server minutes for an answer, because it answers after it has stored a file."""
    quick = os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"]
    os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = "600"
    try:
        yield
    finally:
        os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = quick


def _is_database() -> bool:
    return os.environ["MLFLOW_TRACKING_URI"].startswith("sqlite:///")


def _beside_store() -> str | None:
    """URI of the folder for artifacts beside a local database; MLflow would use the working directory."""
    if not _is_database():
        return None  # a server has its own place
    return (_database().parent / "mlartifacts").as_uri()


def _database() -> Path:
    return Path(os.environ["MLFLOW_TRACKING_URI"].removeprefix("sqlite:///")).resolve()


@contextmanager
def _lock_database() -> Iterator[None]:
    """Lock a local database, because two processes must not create its tables at the same time."""
    if not _is_database():
        yield
        return
    database = _database()
    database.parent.mkdir(parents=True, exist_ok=True)
    with database.with_name(f".{database.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class Follower:
    """Sends each event in a folder to MLflow once."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.store: Store | None = None
        self.senders: dict[Path, StageSender] = {}
        self.sent: Counter[Path] = Counter()

    def send_new(self) -> None:
        """Send the events that are new since the last call; the next call tries failed ones again."""
        self.store = self.store or Store()
        for journal in sorted(self.folder.glob("*.jsonl")):
            sender = self.senders.setdefault(journal, self.store.stage())
            for event in _events(journal.read_bytes())[self.sent[journal] :]:
                sender.take(event)
                self.sent[journal] += 1

    def mark_sent(self) -> None:
        """Mark the journals with events that were sent."""
        for journal in +self.sent:
            journal.rename(f"{journal}{SENT}")


def follow(folder: Path, parent: int) -> None:
    """Send the events in ``folder`` until a file ``end`` appears there, or the process ``parent`` has ended.

    After a failure it waits for :data:`~mofe.tracking.events.PAUSE` seconds. It tries a last time at the end.
    """
    follower = Follower(folder)
    silent_until = 0.0
    while not (folder / END).exists() and os.getppid() == parent:
        if time.monotonic() >= silent_until:
            try:
                follower.send_new()
            except Exception as error:
                warn(error)
                silent_until = time.monotonic() + PAUSE
        time.sleep(POLL_INTERVAL)
    follower.send_new()
    follower.mark_sent()


def send_journals(folder: UPath) -> tuple[int, int]:
    """Send the journals anywhere under ``folder`` and mark them as sent.

    Returns:
        The numbers of journals and events that were sent.

    Raises:
        MofeError: MLflow rejects an event; the journals are kept.
    """
    with locations.access(folder, "tracking folder"):
        journals = sorted(name for name in folder.fs.find(folder.path) if name.endswith(".jsonl"))
    sent = 0
    try:
        store = Store() if journals else None
        for journal in journals:
            assert store is not None
            sender = store.stage()
            events = _events(folder.fs.cat_file(journal))
            for event in events:
                sender.take(event)
            sent += len(events)
            if events and events[-1]["kind"] == "end":  # otherwise its stage may still be running
                folder.fs.mv(journal, journal + SENT)
    except MofeError:
        raise
    except Exception as error:
        reason = locations.without_secrets(in_one_line(error)[:200])
        where = locations.without_secrets(os.environ["MLFLOW_TRACKING_URI"])
        raise MofeError(
            f"MLflow at {where} does not take the events in {folder} ({reason}): they are kept, try again later"
        ) from error
    return len(journals), sent


def _events(journal: bytes) -> list[Event]:
    """Events in a journal, without a last line that is still being written."""
    return [json.loads(line) for line in journal.splitlines(keepends=True) if line.endswith(b"\n")]


if __name__ == "__main__":
    try:
        follow(Path(sys.argv[1]), int(sys.argv[2]))
    except Exception as error:
        warn(error)
        sys.exit(1)
