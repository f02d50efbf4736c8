"""Replaces parts of kfp.local during a run, because kfp.local has no hooks.

Each class and function here says what kfp 2.17 does and why it is replaced; :func:`patch_kfp` replaces them. kfp is
pinned to an exact version because of this. Importing this module imports kfp, which takes seconds.
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
from mofe.runners.docker import container_options, run_container
from mofe.runners.pipeline_spec import stage_of
from mofe.runners.portable import placed, portable
from mofe.runners.processes import StageProcesses
from mofe.runners.record import Rerun
from mofe.storage import locations, writing


@contextmanager
def patch_kfp(
    console: Console,
    stages: StageProcesses,
    parameters: dict[str, Any],
    work: Path,
    never_cached: set[str],
    rerun: Rerun | None,
) -> Iterator[None]:
    """Replace parts of kfp.local within the context.

    Args:
        console: object that shows and records the stages.
        stages: object that runs the stages, and ends them after a signal.
        parameters: parameters of the pipeline, which name the files that containers can read.
        work: work folder of the run.
        never_cached: stages that are never taken from the cache.
        rerun: stage that runs again, if this is not a whole pipeline.
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
        except ImportError:  # docker-py is not installed; kfp raises an error if the run needs it
            pass
        else:
            in_container = InContainer(console, stages, parameters, work)
            patches.enter_context(patch.object(docker_task_handler, "run_docker_container", in_container))
        yield


@dataclass(frozen=True)
class InProcess:
    """Runs a stage's process, in place of ``run_local_subprocess``.

    kfp 2.17 mixes the output of a stage with its own messages, and does not forward a signal that ends the run. This
    class writes the output to the stage's log and the latest line to the terminal, and ends the process with the run.
    """

    console: Console
    stages: StageProcesses

    def __call__(self, full_command: list[str], env_vars: dict[str, str] | None = None) -> int:
        return self.console.execute(full_command, lambda out: self.stages.run(full_command, env_vars or {}, out))


@dataclass(frozen=True)
class InContainer:
    """Runs a stage's container, in place of ``run_docker_container``.

    kfp 2.17 reports a removed container as a success, and mounts only its own folder: see :mod:`mofe.runners.docker`.
    """

    console: Console
    stages: StageProcesses
    parameters: dict[str, Any]
    work: Path

    def __call__(self, client: Any, image: str, command: list[str], volumes: dict[str, Any], **options: Any) -> int:
        ours = container_options(self.parameters, self.work)
        ours["volumes"] |= volumes
        ours["environment"] |= options.get("environment") or {}
        ours["stoppable"] = self.stages.stoppable
        return self.console.execute(command, lambda out: run_container(client, image, command, on_output=out, **ours))


@dataclass
class Caches:
    """The cache of the run, in place of ``get_local_cache``.

    kfp 2.17 makes a new cache for each stage, in the folder that is configured then, and does not report hits.
    """

    console: Console
    never_cached: set[str]
    rerun: Rerun | None
    work: Path
    latest: "RunCache | None" = None

    def get(self) -> "RunCache":
        """Return the cache of the folder that kfp is configured for."""
        root = os.path.join(config.LocalExecutionConfig.instance.pipeline_root, ".cache")  # noqa: PTH118
        if self.latest is None or self.latest.cache_root != root:
            self.latest = RunCache(root, self)
        return self.latest


class RunCache(cache.LocalCache):
    """A cache that reports hits, misses for stages that are never cached, and fails where a rerun needs a hit.

    The key of kfp 2.17 contains the name of the component, which differs between two tasks of one stage, and the
    parameters as Python values, where 0 and 0.0 differ. With the keys here, two tasks of one stage share an entry, and
    0 equals 0.0, as for Kubeflow.
    """

    def __init__(self, root: str, run: Caches):
        super().__init__(root)
        self.run = run

    def compute_key(
        self, component_name: str, image: str, full_command: list[str], arguments: dict[str, Any], **more: Any
    ) -> str:
        """Compute the key of a stage, and remember the stage for the call of :meth:`get` that follows."""
        self.stage = stage_of(component_name)
        self.label = label_of(arguments)
        given = portable(self._serialize_value_for_key(_as_doubles(arguments)), self.run.work)
        return str(super().compute_key(self.stage, image, full_command, given, **more))

    def get(self, key: str) -> dict[str, Any] | None:
        """Return the outputs of the stage; None if it must run.

        Raises:
            MofeError: one stage of an earlier run runs again, and a stage before it is not in the cache.
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
        """Store the outputs of the stage."""
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
            f"{rerun.stage} needs it: its outputs were removed, or it depends on a parameter that --set changes; "
            f"run the whole pipeline: mofe run -f FILE --work {self.run.work}"
        )


class OneByOne(orchestrator.ParallelExecutor):
    """Runs one iteration of a loop at a time, in place of ``ParallelExecutor``.

    kfp 2.17 runs two at once, and confuses the outputs of iterations that end together. One at a time is as fast,
    because each stage uses all cores.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conservative_max = self.max_workers = 1


_run_loop = orchestrator._run_parallel_for_task


def run_loop_with_its_inputs(task_name: str, task_spec: Any, io_store: Any, **more: Any) -> bool:
    """Run a loop, in place of ``_run_parallel_for_task``.

    kfp 2.17 replaces every parameter that comes from a task before the loop by the loop's item, and does not find
    items that are one of several outputs of a task. This function turns such parameters into constants first.
    """
    for name, given in task_spec.inputs.parameters.items():
        if given.HasField("task_output_parameter"):
            made = given.task_output_parameter
            value = io_store.get_task_output(made.producer_task, made.output_parameter_key)
            io_store.put_parent_input(name, value)
            given.runtime_value.constant.CopyFrom(to_protobuf_value(value))
    return bool(_run_loop(task_name=task_name, task_spec=task_spec, io_store=io_store, **more))


def _as_doubles(value: Any) -> Any:
    """Turn whole numbers into floats, because every number is a double for Kubeflow: 0 equals a default of 0.0."""
    if isinstance(value, dict):
        return {name: _as_doubles(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_as_doubles(inner) for inner in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value
