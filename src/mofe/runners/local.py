"""Runs a compiled pipeline on this machine with kfp.local: cached, with progress, with errors that say where to look.

kfp.local has no hooks, so five of its parts are replaced while a run lasts (:func:`_hooked`): what starts a stage's
process, what starts its container, the cache (to hear of hits, and to decide when one stage is run again), how many
iterations of a loop run at once (one, because stages use every core themselves, and because kfp 2.17 confuses the
outputs of iterations that end together), and what a loop takes from tasks before it (kfp 2.17 puts the loop's item in
the place of every such parameter, and does not find items that are one of several outputs of a task).
"""

import copy
import fcntl
import os
import shlex
import subprocess
import sys
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

import yaml

from mofe.errors import MofeError
from mofe.runners.console import Console, label_of, named
from mofe.runners.digests import stamp
from mofe.runners.docker import require_engine, run_container, surroundings
from mofe.runners.pipeline_spec import EarlierRun, PipelineSpec, stage_of, subgraph, with_image
from mofe.runners.processes import StageProcesses
from mofe.runners.record import Execution, RunRecord
from mofe.storage import locations

Runner = Literal["subprocess", "docker"]
PIPELINE = "pipeline.yaml"


@dataclass(frozen=True)
class RunResult:
    """A finished run."""

    run_id: str
    executions: list[Execution]
    outputs: dict[str, Path]
    """The pipeline's own outputs by name."""


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
        pipeline: the YAML, with plain version tags.
        parameters: values of its parameters.
        work: folder for everything: cached results, logs, the tracking store. Runs in one folder share their cache.
        runner: each stage in a process of this Python, or in its container.
        name: of the run in MLflow.
        registry: where the images are; None takes the YAML's.

    Raises:
        MofeError: a stage failed (which, why, and where its log is), or another run is using the folder.
    """
    return _start(_documents(stamp(pipeline.read_text("utf-8"), registry)), parameters, work, runner, name)


def earlier_run(work: Path, run_id: str) -> EarlierRun:
    """What an earlier run in a work folder was asked.

    Raises:
        MofeError: the folder has no record of it.
    """
    record = RunRecord.read(work, run_id)
    return EarlierRun(
        run_id, record.name, _documents((work / "logs" / run_id / PIPELINE).read_text("utf-8")), record.parameters
    )


def run_again(
    earlier: EarlierRun,
    stage: str,
    parameters: dict[str, Any],
    work: Path,
    runner: Runner = "subprocess",
    registry: str = "",
) -> RunResult:
    """Run one stage of an earlier run again, in its present code, on what came before it then; nothing after it runs.

    Its result takes the place of the earlier one in the cache.

    Args:
        earlier: from :func:`earlier_run`.
        stage: its name; where a pipeline runs it several times, all of them.
        parameters: of the earlier run, or others where the stages before it do not depend on them.
        work: the earlier run's.
        runner: as for :func:`run_pipeline`.
        registry: as for :func:`run_pipeline`; "" takes the one of the earlier run.

    Raises:
        MofeError: there is no such stage; something before it is no longer in the cache; as for :func:`run_pipeline`.
    """
    spec = subgraph(with_image(earlier.spec, stage, registry), stage)
    again = _Again(stage, RunRecord.read(work, earlier.run_id))
    return _start(spec, parameters, work, runner, earlier.name, again)


@dataclass(frozen=True)
class _Again:
    """One stage of an earlier run is run again: the cache holds all that comes before it, and nothing for it."""

    stage: str
    earlier: RunRecord

    def fresh(self, key: str) -> dict[str, Any] | None:
        """What a stage that no cache holds gave in the earlier run."""
        return next((e.outputs for e in self.earlier.executions if e.key == key), None)


def _start(
    spec: PipelineSpec,
    parameters: dict[str, Any],
    work: Path,
    runner: Runner,
    name: str,
    again: _Again | None = None,
) -> RunResult:
    if runner == "docker":
        require_engine()
    work = work.resolve()
    run_id = f"{datetime.now():%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:6]}"
    logs = work / "logs" / run_id
    with locations.access(work, "work folder"):
        logs.mkdir(parents=True)
    environment = {
        "KFP_RUN_ID": run_id,
        "MOFE_RUN_NAME": name or run_id,
        "MLFLOW_TRACKING_URI": os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{work / 'mlflow.db'}"),
        "PYTHONUNBUFFERED": "1",
        "PYTHONWARNINGS": "ignore",
        "TORCHINDUCTOR_CACHE_DIR": os.environ.get("TORCHINDUCTOR_CACHE_DIR", str(work / "compiled")),
        "MOFE_TRACKING_FOLDER": str(logs / "tracking"),
        "MOFE_TRACKING_CARRIED": "1",
    }
    (logs / PIPELINE).write_text(_text(spec), "utf-8")
    console = Console(logs, RunRecord(run_id, name, parameters, again.earlier.run if again else ""))
    with _only_run_in(work), patch.dict(os.environ, environment), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with (logs / "kfp.log").open("w", encoding="utf-8") as chatter, _tracked(logs, console):
            try:
                outputs = _run(spec[0], parameters, work, runner, console, chatter, again)
            except (KeyboardInterrupt, SystemExit):
                print(console.failed("stopped; the same command goes on from here"), file=sys.stderr)
                raise
    return RunResult(run_id, console.record.executions, outputs)


def _documents(text: str) -> PipelineSpec:
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
    again: _Again | None,
) -> dict[str, Path]:
    from kfp import components, local

    where = local.SubprocessRunner(use_venv=False) if runner == "subprocess" else local.DockerRunner()
    graph, uncached = _for_this_machine(pipeline)
    stages = StageProcesses()
    with (
        redirect_stdout(chatter),
        _hooked(console, stages, parameters, work, uncached, again),
        stages.ended_by_signals(),
    ):
        local.init(runner=where, pipeline_root=str(work / "artifacts"), enable_caching=True)
        loaded = components.load_component_from_text(_text([graph]))
        try:
            outputs = loaded(**parameters).outputs
        except RuntimeError as error:
            raise MofeError(console.record.failure or f"the pipeline failed: {error}; see {chatter.name}") from error
    return {name: Path(artifact.path) for name, artifact in outputs.items()}


def _for_this_machine(pipeline: dict[str, Any]) -> tuple[dict[str, Any], set[str]]:
    """The graph as kfp.local gets it, and the stages that it must never take from the cache.

    Without retries: a person at a terminal wants to see the error, not to wait for another. Every task asks our cache,
    which knows what to answer.
    """
    graph = copy.deepcopy(pipeline)
    uncached = set()
    for owner in [graph["root"], *graph["components"].values()]:
        for task in owner.get("dag", {}).get("tasks", {}).values():
            task.pop("retryPolicy", None)
            executor = graph["components"][task["componentRef"]["name"]].get("executorLabel")
            if executor and not task["cachingOptions"].get("enableCache"):
                uncached.add(stage_of(executor))
            task["cachingOptions"] = {"enableCache": True}
    return graph, uncached


@contextmanager
def _tracked(logs: Path, console: Console) -> Iterator[None]:
    """Beside the stages, once one has left something to track, a process that carries it to MLflow."""
    events = logs / "tracking"
    events.mkdir()
    sender: list[subprocess.Popen[bytes]] = []

    def start() -> None:
        if not sender and any(events.iterdir()):
            command = [sys.executable, "-m", "mofe.tracking.mlflow_store", str(events), str(os.getpid())]
            with (logs / "tracking.log").open("wb") as log:
                sender.append(subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True))

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
                f"tracking in MLflow failed (see {logs / 'tracking.log'}); the run is not affected, and what was to be "
                f"logged is kept: mofe report --sync {shlex.quote(str(events))}",
                file=sys.stderr,
            )


@contextmanager
def _only_run_in(work: Path) -> Iterator[None]:
    with (work / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise MofeError(f"another run is using {work}: wait for it, or name another folder with --work") from error
        yield


@contextmanager
def _hooked(
    console: Console,
    stages: StageProcesses,
    parameters: dict[str, Any],
    work: Path,
    uncached: set[str],
    again: _Again | None,
) -> Iterator[None]:
    from kfp.compiler.pipeline_spec_builder import to_protobuf_value
    from kfp.local import cache, subprocess_task_handler
    from kfp.local.orchestrator import enhanced_dag_orchestrator

    run_loop = enhanced_dag_orchestrator._run_parallel_for_task

    class ReportingCache(cache.LocalCache):
        """The cache of kfp.local, which says when it had an answer, and knows when it must have none, or one."""

        def compute_key(
            self, component_name: str, image: str, full_command: list[str], arguments: dict[str, Any], **more: Any
        ) -> str:
            self.stage = stage_of(component_name)
            self.label = label_of(arguments)
            return str(super().compute_key(self.stage, image, full_command, _as_doubles(arguments), **more))

        def get(self, key: str) -> dict[str, Any] | None:
            if again and self.stage == again.stage:
                return None
            outputs: dict[str, Any] | None = None
            if self.stage not in uncached:
                outputs = super().get(key)
            elif again:
                outputs = again.fresh(key)
            if outputs is not None:
                console.found_in_cache(self.stage, self.label, key, outputs)
            elif again:
                raise MofeError(console.failed(
                    f"stage {named(self.stage, self.label)} of run {again.earlier.run} is not in the cache, and "
                    f"{again.stage} needs it: its outputs are gone, or it depends on a parameter that --set changes. "
                    f"Run the whole pipeline: mofe run -f FILE --work {work}"
                ))  # fmt: skip
            return outputs

        def put(self, key: str, outputs: dict[str, Any]) -> None:
            if self.stage not in uncached:
                super().put(key, outputs)
            console.made(key, outputs)

    class OneByOne(enhanced_dag_orchestrator.ParallelExecutor):
        def __init__(self) -> None:
            super().__init__()
            self.conservative_max = self.max_workers = 1

    def loop(task_name: str, task_spec: Any, io_store: Any, **more: Any) -> bool:
        for name, given in task_spec.inputs.parameters.items():
            if given.HasField("task_output_parameter"):
                made = given.task_output_parameter
                value = io_store.get_task_output(made.producer_task, made.output_parameter_key)
                io_store.put_parent_input(name, value)
                given.runtime_value.constant.CopyFrom(to_protobuf_value(value))
        return bool(run_loop(task_name=task_name, task_spec=task_spec, io_store=io_store, **more))

    def in_process(full_command: list[str], env_vars: dict[str, str] | None = None) -> int:
        return console.execute(full_command, lambda out: stages.run(full_command, env_vars or {}, out))

    def in_container(client: Any, image: str, command: list[str], volumes: dict[str, Any], **options: Any) -> int:
        around = surroundings(parameters, work)
        around["volumes"] |= volumes
        around["environment"] |= options.get("environment") or {}
        around["stoppable"] = stages.stoppable
        return console.execute(command, lambda out: run_container(client, image, command, on_output=out, **around))

    held: dict[str, ReportingCache] = {}

    def local_cache() -> ReportingCache:
        from kfp.local import config

        root = os.path.join(config.LocalExecutionConfig.instance.pipeline_root, ".cache")  # noqa: PTH118
        return held.setdefault(root, ReportingCache(root))

    with (
        patch.object(subprocess_task_handler, "run_local_subprocess", in_process),
        patch.object(cache, "get_local_cache", local_cache),
        patch.object(enhanced_dag_orchestrator, "ParallelExecutor", OneByOne),
        patch.object(enhanced_dag_orchestrator, "_run_parallel_for_task", loop),
        _docker_patch(in_container),
    ):
        yield


@contextmanager
def _docker_patch(in_container: Callable[..., int]) -> Iterator[None]:
    try:
        from kfp.local import docker_task_handler
    except ImportError:  # docker-py is not installed; kfp says so if it is asked for
        yield
        return
    with patch.object(docker_task_handler, "run_docker_container", in_container):
        yield


def _as_doubles(value: Any) -> Any:
    """To Kubeflow every number is a double: a compiled default of 0.0 and the 0 that somebody gives are one."""
    if isinstance(value, dict):
        return {name: _as_doubles(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_as_doubles(inner) for inner in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value
