"""What is changed in kfp.local while a run lasts: it has no hooks of its own.

Each part of this module names what kfp 2.17 does and why it is changed; :func:`patched` puts them in place. kfp is
pinned exactly for their sake. Importing this module imports kfp, which takes seconds.
"""

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from kfp.compiler.pipeline_spec_builder import to_protobuf_value
from kfp.local import cache, config, subprocess_task_handler
from kfp.local.orchestrator import enhanced_dag_orchestrator as orchestrator

from mofe.errors import MofeError
from mofe.runners.console import Console, format_stage, label_of
from mofe.runners.docker import run_container, surroundings
from mofe.runners.pipeline_spec import stage_of
from mofe.runners.portable import placed, portable
from mofe.runners.processes import StageProcesses
from mofe.runners.record import Rerun
from mofe.storage import locations, writing


@contextmanager
def patched(
    console: Console,
    stages: StageProcesses,
    parameters: dict[str, Any],
    work: Path,
    never_cached: set[str],
    rerun: Rerun | None,
) -> Iterator[None]:
    """Within it kfp.local runs a pipeline as mofe wants it.

    Args:
        console: shows and records the stages.
        stages: ends them by signals.
        parameters: of the pipeline; they name what containers get to see.
        work: folder of the run.
        never_cached: stages that are never taken from the cache.
        rerun: the stage that runs again, if this is not a whole pipeline.
    """
    caches = Caches(console, never_cached, rerun, work)
    with ExitStack() as patches:
        for module, name, replacement in (
            (subprocess_task_handler, "run_local_subprocess", InProcess(console, stages)),
            (cache, "get_local_cache", caches.get),
            (orchestrator, "ParallelExecutor", OneByOne),
            (orchestrator, "_run_parallel_for_task", run_loop_with_its_inputs),
        ):
            patches.enter_context(patch.object(module, name, replacement))
        try:
            from kfp.local import docker_task_handler
        except ImportError:  # docker-py is not installed; kfp says so if it is asked for
            pass
        else:
            in_container = InContainer(console, stages, parameters, work)
            patches.enter_context(patch.object(docker_task_handler, "run_docker_container", in_container))
        yield


@dataclass(frozen=True)
class InProcess:
    """Runs a stage's process, in place of ``run_local_subprocess``.

    kfp 2.17 prints what a stage prints among its own messages, and does not pass on a signal that ends the run. Here
    the output goes to the stage's log and its latest line to the terminal, and the process ends with the run.
    """

    console: Console
    stages: StageProcesses

    def __call__(self, full_command: list[str], env_vars: dict[str, str] | None = None) -> int:
        return self.console.execute(full_command, lambda out: self.stages.run(full_command, env_vars or {}, out))


@dataclass(frozen=True)
class InContainer:
    """Runs a stage's container, in place of ``run_docker_container``.

    kfp 2.17 takes a container that is gone for one that succeeded, and mounts only its own folder: see
    :mod:`mofe.runners.docker`.
    """

    console: Console
    stages: StageProcesses
    parameters: dict[str, Any]
    work: Path

    def __call__(self, client: Any, image: str, command: list[str], volumes: dict[str, Any], **options: Any) -> int:
        around = surroundings(self.parameters, self.work)
        around["volumes"] |= volumes
        around["environment"] |= options.get("environment") or {}
        around["stoppable"] = self.stages.stoppable
        return self.console.execute(command, lambda out: run_container(client, image, command, on_output=out, **around))


@dataclass
class Caches:
    """The cache of the run, in place of ``get_local_cache``.

    kfp 2.17 makes a cache that tells nobody when it has an answer, for the folder that is configured when it is asked.
    """

    console: Console
    never_cached: set[str]
    rerun: Rerun | None
    work: Path
    latest: "RunCache | None" = None

    def get(self) -> "RunCache":
        """The cache of the folder that kfp is configured for."""
        root = os.path.join(config.LocalExecutionConfig.instance.pipeline_root, ".cache")  # noqa: PTH118
        if self.latest is None or self.latest.cache_root != root:
            self.latest = RunCache(root, self)
        return self.latest


class RunCache(cache.LocalCache):
    """A cache that says when it had an answer, and knows when it must have none, or one.

    kfp 2.17 keys a stage by the name of its component, in which a number tells two tasks of one stage apart, and by its
    parameters as Python has them, in which 0 and 0.0 differ. Here two tasks of one stage share an entry, and numbers
    are equal where they are so for Kubeflow. Keys and entries name places in the work folder as
    :mod:`mofe.runners.portable` does, where kfp 2.17 keeps absolute paths.
    """

    def __init__(self, root: str, run: Caches):
        super().__init__(root)
        self.run = run

    def compute_key(
        self, component_name: str, image: str, full_command: list[str], arguments: dict[str, Any], **more: Any
    ) -> str:
        """The key of a stage, which is asked about next."""
        self.stage = stage_of(component_name)
        self.label = label_of(arguments)
        given = portable(self._serialize_value_for_key(_as_doubles(arguments)), self.run.work)
        return str(super().compute_key(self.stage, image, full_command, given, **more))

    def get(self, key: str) -> dict[str, Any] | None:
        """What the stage gave; None if it is to run.

        Raises:
            MofeError: one stage of an earlier run is run again, and this one before it would have to run, too.
        """
        rerun = self.run.rerun
        if rerun and self.stage == rerun.stage:
            return None
        outputs: dict[str, Any] | None = None
        if self.stage not in self.run.never_cached:
            outputs = self._kept(key)
        elif rerun:
            outputs = rerun.outputs_of(key)
        if outputs is not None:
            self.run.console.note_cached(self.stage, self.label, key, outputs)
        elif rerun:
            raise MofeError(self.run.console.note_failure(self._missing(rerun)))
        return outputs

    def put(self, key: str, outputs: dict[str, Any]) -> None:
        """Keep what the stage gave."""
        if self.stage not in self.run.never_cached:
            entry = portable(self._serialize_outputs(outputs), self.run.work)
            writing.write_bytes(locations.resolve(self._entry_path(key)), json.dumps(entry).encode())
        self.run.console.note_outputs(key, outputs)

    def _kept(self, key: str) -> dict[str, Any] | None:
        """The outputs of an entry; None if there is none, it is damaged, or an artifact is gone."""
        try:
            entry = json.loads(Path(self._entry_path(key)).read_text("utf-8"))
            return dict(self._deserialize_outputs(placed(entry, self.run.work)))
        except (OSError, ValueError, cache._MissingArtifactError):
            return None

    def _missing(self, rerun: Rerun) -> str:
        return (
            f"stage {format_stage(self.stage, self.label)} of run {rerun.earlier.run} is not in the cache, and "
            f"{rerun.stage} needs it: its outputs are gone, or it depends on a parameter that --set changes. "
            f"Run the whole pipeline: mofe run -f FILE --work {self.run.work}"
        )


class OneByOne(orchestrator.ParallelExecutor):
    """Runs one iteration of a loop at a time, in place of ``ParallelExecutor``.

    kfp 2.17 runs two at once, and confuses the outputs of iterations that end together. Stages use every core
    themselves, so nothing is lost.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conservative_max = self.max_workers = 1


_run_loop = orchestrator._run_parallel_for_task


def run_loop_with_its_inputs(task_name: str, task_spec: Any, io_store: Any, **more: Any) -> bool:
    """Runs a loop, in place of ``_run_parallel_for_task``.

    kfp 2.17 puts the loop's item in the place of every parameter that comes from a task before the loop, and does not
    find items that are one of several outputs of a task. Here such parameters are constants when the loop begins.
    """
    for name, given in task_spec.inputs.parameters.items():
        if given.HasField("task_output_parameter"):
            made = given.task_output_parameter
            value = io_store.get_task_output(made.producer_task, made.output_parameter_key)
            io_store.put_parent_input(name, value)
            given.runtime_value.constant.CopyFrom(to_protobuf_value(value))
    return bool(_run_loop(task_name=task_name, task_spec=task_spec, io_store=io_store, **more))


def _as_doubles(value: Any) -> Any:
    """To Kubeflow every number is a double: a compiled default of 0.0 and the 0 that somebody gives are one."""
    if isinstance(value, dict):
        return {name: _as_doubles(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_as_doubles(inner) for inner in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value
