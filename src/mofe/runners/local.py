"""Runs a compiled pipeline on this machine with kfp.local, with a cache, progress, and errors that name the log.

kfp.local has no hooks, so :mod:`mofe.runners.kfp_patches` replaces parts of it during a run.
"""

import copy
import fcntl
import os
import shlex
import subprocess
import sys
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

import yaml

from mofe.errors import MofeError
from mofe.runners.console import Console
from mofe.runners.digests import stamp
from mofe.runners.docker import require_engine
from mofe.runners.pipeline_spec import EarlierRun, PipelineSpec, stage_of, subgraph, with_image
from mofe.runners.processes import StageProcesses
from mofe.runners.record import Execution, Rerun, RunRecord
from mofe.storage import locations
from mofe.tracking.events import BESIDE, DATABASE

Runner = Literal["subprocess", "docker"]
PIPELINE = "pipeline.yaml"


@dataclass(frozen=True)
class RunResult:
    """A finished run."""

    run_id: str
    executions: list[Execution]
    outputs: dict[str, Path]
    """Paths of the pipeline's outputs by name."""


def run_pipeline(
    pipeline: Path,
    parameters: dict[str, Any],
    work: Path,
    runner: Runner = "subprocess",
    name: str = "",
    registry: str | None = None,
) -> RunResult:
    """Run a compiled pipeline.

    Args:
        pipeline: compiled YAML with plain version tags.
        parameters: values of the pipeline's parameters.
        work: folder for cached results, logs and the tracking store. Runs in one folder share their cache.
        runner: subprocess (each stage in a process with this Python) or docker (each stage in a container).
        name: name of the run in MLflow.
        registry: registry of the images; None takes the one in the YAML.

    Raises:
        MofeError: a stage failed, or another run is using the folder. The message names the stage, the cause and the
            log.
    """
    return _start(_read_spec(stamp(pipeline.read_text("utf-8"), registry)), parameters, work, runner, name)


def earlier_run(work: Path, run_id: str) -> EarlierRun:
    """Read the pipeline and the parameters of an earlier run in a work folder.

    Raises:
        MofeError: the folder has no record of the run.
    """
    record = RunRecord.read(work, run_id)
    return EarlierRun(
        run_id, record.name, _read_spec((work / "logs" / run_id / PIPELINE).read_text("utf-8")), record.parameters
    )


def run_again(
    earlier: EarlierRun,
    stage: str,
    parameters: dict[str, Any],
    work: Path,
    runner: Runner = "subprocess",
    registry: str = "",
) -> RunResult:
    """Run one stage of an earlier run again with its present code, on the earlier inputs; no later stage runs.

    Its result replaces the earlier one in the cache.

    Args:
        earlier: result of :func:`earlier_run`.
        stage: name of the stage; all its tasks run where the pipeline has several.
        parameters: parameters of the run; those that earlier stages depend on must be the same as before.
        work: work folder of the earlier run.
        runner: subprocess or docker, see :func:`run_pipeline`.
        registry: registry of the images; "" takes that of the earlier run.

    Raises:
        MofeError: the pipeline has no such stage, an earlier stage is no longer in the cache, or one of the reasons of
            :func:`run_pipeline`.
    """
    spec = subgraph(with_image(earlier.spec, stage, registry), stage)
    rerun = Rerun(stage, RunRecord.read(work, earlier.run_id))
    return _start(spec, parameters, work, runner, earlier.name, rerun)


def _start(
    spec: PipelineSpec,
    parameters: dict[str, Any],
    work: Path,
    runner: Runner,
    name: str,
    rerun: Rerun | None = None,
) -> RunResult:
    if runner == "docker":
        require_engine()
    work = work.resolve()
    run_id = f"{datetime.now():%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:6]}"
    logs = work / "logs" / run_id
    with locations.access(work, "work folder"):
        logs.mkdir(parents=True)
    (logs / PIPELINE).write_text(_text(spec), "utf-8")
    console = Console(logs, RunRecord(run_id, name, parameters, rerun.earlier.run if rerun else ""))
    with _lock_folder(work), patch.dict(os.environ, _environment(work, logs, name)), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with (logs / "kfp.log").open("w", encoding="utf-8") as chatter, _track(work, logs, console):
            try:
                outputs = _run(spec[0], parameters, work, runner, console, chatter, rerun)
            except (KeyboardInterrupt, SystemExit):
                print(console.note_failure("stopped: run the same command again to continue"), file=sys.stderr)
                raise
    return RunResult(run_id, console.record.executions, outputs)


def _environment(work: Path, logs: Path, name: str) -> dict[str, str]:
    """Environment variables for the stages: the identity of the run, and the places for tracking and compiled code."""
    run_id = logs.name
    return {
        "KFP_RUN_ID": run_id,
        "MOFE_RUN_NAME": name or run_id,
        "MLFLOW_TRACKING_URI": os.environ.get("MLFLOW_TRACKING_URI", _database(work)),
        "PYTHONUNBUFFERED": "1",
        "PYTHONWARNINGS": "ignore",
        "TORCHINDUCTOR_CACHE_DIR": os.environ.get("TORCHINDUCTOR_CACHE_DIR", str(work / "compiled")),
        "MOFE_TRACKING_FOLDER": str(logs / "tracking"),
        "MOFE_TRACKING_CARRIED": "1",
    }


def _database(work: Path) -> str:
    return f"sqlite:///{work / DATABASE}"


def _read_spec(text: str) -> PipelineSpec:
    return list(yaml.load_all(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)))


def _text(spec: PipelineSpec) -> str:
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    return str(yaml.dump_all(spec, Dumper=dumper, sort_keys=False, allow_unicode=True))


def _run(
    pipeline: dict[str, Any],
    parameters: dict[str, Any],
    work: Path,
    runner: Runner,
    console: Console,
    chatter: Any,
    rerun: Rerun | None,
) -> dict[str, Path]:
    from kfp import components, local

    from mofe.runners.kfp_patches import patch_kfp

    where = local.SubprocessRunner(use_venv=False) if runner == "subprocess" else local.DockerRunner()
    graph, never_cached = _adapt_to_this_machine(pipeline)
    stages = StageProcesses()
    with (
        redirect_stdout(chatter),
        patch_kfp(console, stages, parameters, work, never_cached, rerun),
        stages.end_on_signals(),
    ):
        local.init(runner=where, pipeline_root=str(work / "artifacts"), enable_caching=True)
        loaded = components.load_component_from_text(_text([graph]))
        try:
            outputs = loaded(**parameters).outputs
        except RuntimeError as error:
            raise MofeError(console.record.failure or f"the pipeline failed: {error}; see {chatter.name}") from error
    return {name: Path(artifact.path) for name, artifact in outputs.items()}


def _adapt_to_this_machine(pipeline: dict[str, Any]) -> tuple[dict[str, Any], set[str]]:
    """Prepare a graph for kfp.local; return it, and the stages that must never be taken from the cache.

    It removes retries, because a user at a terminal wants to see the first error. It enables the cache for every task,
    because :class:`~mofe.runners.kfp_patches.RunCache` decides about each.
    """
    graph = copy.deepcopy(pipeline)
    never_cached = set()
    for owner in [graph["root"], *graph["components"].values()]:
        for task in owner.get("dag", {}).get("tasks", {}).values():
            task.pop("retryPolicy", None)
            executor = graph["components"][task["componentRef"]["name"]].get("executorLabel")
            if executor and not task["cachingOptions"].get("enableCache"):
                never_cached.add(stage_of(executor))
            task["cachingOptions"] = {"enableCache": True}
    return graph, never_cached


@contextmanager
def _track(work: Path, logs: Path, console: Console) -> Iterator[None]:
    """Beside the stages, once one has left something to track, a process that carries it to MLflow."""
    events = logs / "tracking"
    events.mkdir()
    sender: list[subprocess.Popen[bytes]] = []

    def start() -> None:
        if not sender and any(events.iterdir()):
            command = [sys.executable, "-P", "-m", "mofe.tracking.mlflow_store", str(events), str(os.getpid())]
            own = os.environ["MLFLOW_TRACKING_URI"] == _database(work)
            place: dict[str, Any] = {"cwd": work, "env": os.environ | {"MLFLOW_TRACKING_URI": BESIDE}} if own else {}
            with (logs / "tracking.log").open("wb") as log:
                sender.append(subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, **place))

    console.after_stage = start
    try:
        yield
    finally:
        (events / "end").touch()
        try:
            failed = sender and sender[0].wait(timeout=300) != 0
        except subprocess.TimeoutExpired:
            sender[0].kill()
            failed = True
        if failed:
            print(
                f"tracking in MLflow failed (see {logs / 'tracking.log'}); the results of the run are complete; "
                f"to send the tracking again: mofe report --sync {shlex.quote(str(events))}",
                file=sys.stderr,
            )


@contextmanager
def _lock_folder(work: Path) -> Iterator[None]:
    with (work / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise MofeError(f"another run is using {work}: wait for it, or name another folder with --work") from error
        yield
