"""Reduces the pipeline of an earlier run to one stage and the tasks before it, to run that stage again."""

import copy
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from mofe.errors import MofeError
from mofe.runners.digests import present_image

FIND_IN_CACHE = "find OOD set"
"""Display name of a task that only takes another task's result from the cache."""

PipelineSpec = list[dict[str, Any]]
"""Documents of a compiled pipeline's YAML: the graph and, where there are any, the settings for Kubernetes."""


@dataclass(frozen=True)
class EarlierRun:
    """The pipeline and the parameters of an earlier run."""

    run_id: str
    name: str
    spec: PipelineSpec
    """The pipeline, with the images that it ran in."""
    parameters: dict[str, Any]
    place: dict[str, Any] = field(default_factory=dict)
    """Further options of the submission on Kubeflow, for example the experiment."""


def subgraph(spec: PipelineSpec, stage: str) -> PipelineSpec:
    """Copy a pipeline with only the tasks of a stage and the tasks before them.

    Raises:
        MofeError: the pipeline has no such stage; the message lists its stages.
    """
    pipeline, *platform = copy.deepcopy(spec)
    components = {**pipeline["components"], "root": pipeline["root"]}
    there = {stage_of(c["executorLabel"]): None for c in components.values() if "executorLabel" in c}
    if stage not in there:
        raise MofeError(f"the pipeline has no stage {stage!r}; it has {', '.join(there)}")
    _trim("root", components, stage)
    kept = set(_descendants("root", components))
    executors = {components[name].get("executorLabel") for name in kept}
    pipeline["components"] = {name: c for name, c in pipeline["components"].items() if name in kept}
    for part in [pipeline, *(document["platforms"]["kubernetes"] for document in platform)]:
        deployed = part["deploymentSpec"]
        deployed["executors"] = {name: e for name, e in deployed["executors"].items() if name in executors}
    return [pipeline, *platform]


def without_cache(spec: PipelineSpec, stage: str) -> PipelineSpec:
    """Copy a pipeline so that one stage does not use Kubeflow's cache."""
    changed = copy.deepcopy(spec)
    components = changed[0]["components"]
    for owner in (changed[0]["root"], *components.values()):
        for task in owner.get("dag", {}).get("tasks", {}).values():
            if stage_of(components[task["componentRef"]["name"]].get("executorLabel", "")) == stage:
                task["cachingOptions"] = {}
    return changed


def with_image(spec: PipelineSpec, stage: str, registry: str = "") -> PipelineSpec:
    """Copy a pipeline so that one stage runs its present code, and all other stages the code from before.

    Args:
        spec: pipeline with content digests as tags.
        stage: stage whose image is replaced.
        registry: registry of the new image; "" takes that of the old one.
    """
    changed = copy.deepcopy(spec)
    for name, executor in changed[0]["deploymentSpec"]["executors"].items():
        if stage_of(name) == stage:
            container = executor["container"]
            container["image"] = present_image(stage, container["image"], registry)
    return changed


def stage_of(name: str) -> str:
    """Stage of an executor or component: merge_scores for ``exec-merge-scores-2-3`` and ``comp-merge-scores``."""
    return re.sub(r"^(exec|comp)-|(-\d+)+$", "", name).replace("-", "_")


def _trim(name: str, components: dict[str, Any], stage: str) -> None:
    """Remove all tasks that the stage does not need from a graph and its inner graphs."""
    dag = components[name]["dag"]
    wanted = [task for task, spec in dag["tasks"].items() if _is_wanted(spec, components, stage)]
    kept = _with_predecessors(wanted, dag["tasks"])
    needed_whole = {before for task in kept for before in dag["tasks"][task].get("dependentTasks", [])}
    for task in wanted:
        component = dag["tasks"][task]["componentRef"]["name"]
        if "dag" in components[component] and task not in needed_whole:
            _trim(component, components, stage)
    dag["tasks"] = {task: spec for task, spec in dag["tasks"].items() if task in kept}
    _drop_unmade_outputs(components[name], components)


def _with_predecessors(wanted: Sequence[str], tasks: dict[str, Any]) -> set[str]:
    """The tasks ``wanted``, and all tasks before them."""
    kept: set[str] = set()
    pending = list(wanted)
    while pending:
        task = pending.pop()
        if task not in kept:
            kept.add(task)
            pending += tasks[task].get("dependentTasks", [])
    return kept


def _drop_unmade_outputs(component: dict[str, Any], components: dict[str, Any]) -> None:
    """Remove the outputs of a graph that came from removed tasks."""
    dag = component["dag"]
    outputs, defined = dag.get("outputs", {}), component.get("outputDefinitions", {})
    for kind in ("artifacts", "parameters"):
        for output, source in list(outputs.get(kind, {}).items()):
            if not all(_is_made(*made, dag["tasks"], components) for made in _sources(source)):
                del outputs[kind][output], defined[kind][output]


def _holds(component: str, components: dict[str, Any], stage: str) -> bool:
    """Whether a component is the stage, or a graph that contains it."""
    spec = components[component]
    if "dag" in spec:
        return any(_is_wanted(task, components, stage) for task in spec["dag"]["tasks"].values())
    return stage_of(spec["executorLabel"]) == stage


def _is_wanted(task: dict[str, Any], components: dict[str, Any], stage: str) -> bool:
    return task["taskInfo"]["name"] != FIND_IN_CACHE and _holds(task["componentRef"]["name"], components, stage)


def _sources(output: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (task, output of the task) for each source of a graph's output."""
    for selector in output.get("artifactSelectors", []):
        yield selector["producerSubtask"], selector["outputArtifactKey"]
    if "valueFromParameter" in output:
        yield output["valueFromParameter"]["producerSubtask"], output["valueFromParameter"]["outputParameterKey"]


def _is_made(task: str, output: str, tasks: dict[str, Any], components: dict[str, Any]) -> bool:
    if task not in tasks:
        return False
    defined = components[tasks[task]["componentRef"]["name"]].get("outputDefinitions", {})
    return any(output in defined.get(kind, {}) for kind in ("artifacts", "parameters"))


def _descendants(name: str, components: dict[str, Any]) -> Iterator[str]:
    for task in components[name].get("dag", {}).get("tasks", {}).values():
        component = task["componentRef"]["name"]
        yield component
        yield from _descendants(component, components)
