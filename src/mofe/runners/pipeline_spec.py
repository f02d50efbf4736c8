"""One stage of an earlier run again: the pipeline of that run, cut down to the stage and what comes before it."""

import copy
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from mofe.errors import MofeError
from mofe.runners.digests import present_image

FINDS = "find OOD set"
"""The display name of a task that only finds in the cache what another has made."""

PipelineSpec = list[dict[str, Any]]
"""A compiled pipeline as its YAML holds it: the graph and, where there is one, what is Kubernetes' own in it."""


@dataclass(frozen=True)
class EarlierRun:
    """A run that has been: what was asked of it."""

    run_id: str
    name: str
    spec: PipelineSpec
    """The pipeline, with the images it ran in."""
    parameters: dict[str, Any]
    place: dict[str, Any] = field(default_factory=dict)
    """On Kubeflow: the experiment it is in, and what else it was submitted with."""


def subgraph(spec: PipelineSpec, stage: str) -> PipelineSpec:
    """A pipeline without the tasks that are neither the stage's nor come before it.

    Raises:
        MofeError: the pipeline has no such stage; with those that it has.
    """
    pipeline, *platform = copy.deepcopy(spec)
    components = {**pipeline["components"], "root": pipeline["root"]}
    there = {stage_of(c["executorLabel"]): None for c in components.values() if "executorLabel" in c}
    if stage not in there:
        raise MofeError(f"the pipeline has no stage {stage!r}; it has {', '.join(there)}")
    _trim("root", components, stage)
    kept = set(_below("root", components))
    executors = {components[name].get("executorLabel") for name in kept}
    pipeline["components"] = {name: c for name, c in pipeline["components"].items() if name in kept}
    for part in [pipeline, *(document["platforms"]["kubernetes"] for document in platform)]:
        deployed = part["deploymentSpec"]
        deployed["executors"] = {name: e for name, e in deployed["executors"].items() if name in executors}
    return [pipeline, *platform]


def without_cache(spec: PipelineSpec, stage: str) -> PipelineSpec:
    """A pipeline in which a stage takes nothing from Kubeflow's cache."""
    changed = copy.deepcopy(spec)
    components = changed[0]["components"]
    for owner in (changed[0]["root"], *components.values()):
        for task in owner.get("dag", {}).get("tasks", {}).values():
            if stage_of(components[task["componentRef"]["name"]].get("executorLabel", "")) == stage:
                task["cachingOptions"] = {}
    return changed


def with_image(spec: PipelineSpec, stage: str, registry: str = "") -> PipelineSpec:
    """A pipeline in which one stage runs the present code, and all others what they ran before.

    Args:
        spec: with images by content.
        stage: whose image is replaced.
        registry: where that image is; "" takes the registry of the one that it replaces.
    """
    changed = copy.deepcopy(spec)
    for name, executor in changed[0]["deploymentSpec"]["executors"].items():
        if stage_of(name) == stage:
            container = executor["container"]
            container["image"] = present_image(stage, container["image"], registry)
    return changed


def stage_of(name: str) -> str:
    """The stage of an executor or component: of ``exec-merge-scores-2-3`` and ``comp-merge-scores`` merge_scores."""
    return re.sub(r"^(exec|comp)-|(-\d+)+$", "", name).replace("-", "_")


def _trim(name: str, components: dict[str, Any], stage: str) -> None:
    """Leave in a graph, and in those below it, only the tasks that the stage needs."""
    dag = components[name]["dag"]
    wanted = [task for task, spec in dag["tasks"].items() if _is_wanted(spec, components, stage)]
    kept = _with_those_before(wanted, dag["tasks"])
    needed_whole = {before for task in kept for before in dag["tasks"][task].get("dependentTasks", [])}
    for task in wanted:
        component = dag["tasks"][task]["componentRef"]["name"]
        if "dag" in components[component] and task not in needed_whole:
            _trim(component, components, stage)
    dag["tasks"] = {task: spec for task, spec in dag["tasks"].items() if task in kept}
    _drop_unmade_outputs(components[name], components)


def _with_those_before(wanted: Sequence[str], tasks: dict[str, Any]) -> set[str]:
    """Tasks, and all that come before them."""
    kept: set[str] = set()
    pending = list(wanted)
    while pending:
        task = pending.pop()
        if task not in kept:
            kept.add(task)
            pending += tasks[task].get("dependentTasks", [])
    return kept


def _drop_unmade_outputs(component: dict[str, Any], components: dict[str, Any]) -> None:
    """Remove the outputs of a graph that none of its tasks makes any more."""
    dag = component["dag"]
    outputs, defined = dag.get("outputs", {}), component.get("outputDefinitions", {})
    for kind in ("artifacts", "parameters"):
        for output, source in list(outputs.get(kind, {}).items()):
            if not all(_is_made(*made, dag["tasks"], components) for made in _sources(source)):
                del outputs[kind][output], defined[kind][output]


def _holds(component: str, components: dict[str, Any], stage: str) -> bool:
    """Whether a component is the stage, or a graph that holds it."""
    spec = components[component]
    if "dag" in spec:
        return any(_is_wanted(task, components, stage) for task in spec["dag"]["tasks"].values())
    return stage_of(spec["executorLabel"]) == stage


def _is_wanted(task: dict[str, Any], components: dict[str, Any], stage: str) -> bool:
    return task["taskInfo"]["name"] != FINDS and _holds(task["componentRef"]["name"], components, stage)


def _sources(output: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The tasks, and their outputs, that an output of a graph is taken from."""
    for selector in output.get("artifactSelectors", []):
        yield selector["producerSubtask"], selector["outputArtifactKey"]
    if "valueFromParameter" in output:
        yield output["valueFromParameter"]["producerSubtask"], output["valueFromParameter"]["outputParameterKey"]


def _is_made(task: str, output: str, tasks: dict[str, Any], components: dict[str, Any]) -> bool:
    if task not in tasks:
        return False
    defined = components[tasks[task]["componentRef"]["name"]].get("outputDefinitions", {})
    return any(output in defined.get(kind, {}) for kind in ("artifacts", "parameters"))


def _below(name: str, components: dict[str, Any]) -> Iterator[str]:
    for task in components[name].get("dag", {}).get("tasks", {}).values():
        component = task["componentRef"]["name"]
        yield component
        yield from _below(component, components)
