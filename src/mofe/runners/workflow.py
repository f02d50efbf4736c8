"""Translates the state of a run on Kubeflow into the pipeline's stages.

The state comes from the Argo workflow of the run, which API v1beta1 returns with the run. The tasks in API v2beta1 have
neither their graphs, nor whether they were cached, nor why they failed. They also stop changing when Argo compresses
the workflow, which it does above one megabyte, after a few OOD sets.

The name of a node is its path through the graphs, with the number of the try of each part, for example
``mofe-kpx9z(0).root(0).score(0).executor(0)``. The node of a task stands for a stage. It contains a driver, and an
executor, which is a pod. The executor is skipped if the result was in the cache.
"""

import base64
import gzip
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from mofe.runners.pipeline_spec import FIND_IN_CACHE, PipelineSpec, stage_of
from mofe.runners.stage_log import exception_in

ENDED = {"Succeeded", "Failed", "Error"}


@dataclass(frozen=True)
class Failure:
    """The pod that made a stage fail."""

    stage: str
    """Name of the stage, with the numbers of its loops' iterations."""
    pod: str
    node: str
    """Id of the node, under which Argo archives the log."""
    message: str
    """Argo's message about the pod."""


def nodes_of(status: dict[str, Any]) -> list[dict[str, Any]]:
    """Nodes of an Argo workflow from its status, sorted by the time of their end; those that still run are last."""
    nodes = status.get("nodes") or {}
    if "compressedNodes" in status:
        nodes = json.loads(gzip.decompress(base64.b64decode(status["compressedNodes"])))
    return sorted(nodes.values(), key=lambda node: (node.get("finishedAt") or "~", node["name"]))


def is_elsewhere(status: dict[str, Any]) -> bool:
    """Whether Argo stores the nodes of a workflow in its database, which this API does not read."""
    return "offloadNodeStatusVersion" in status


def report_ended(nodes: list[dict[str, Any]], spec: PipelineSpec, reported: set[str]) -> Iterator[str]:
    """Yield a line for each stage that has ended since the last call.

    Args:
        nodes: nodes from :func:`nodes_of`.
        spec: compiled pipeline.
        reported: ids of the nodes that were reported; the function adds to it.
    """
    skipped = {_path(node) for node in nodes if node.get("phase") in ("Skipped", "Omitted")}
    for node in nodes:
        stage, whole = _stage(node["name"], spec)
        if not whole or node.get("phase") not in ENDED or node["id"] in reported or not node.get("finishedAt"):
            continue
        reported.add(node["id"])
        cached = f"{_path(node)}.executor" in skipped
        if cached and stage.startswith(FIND_IN_CACHE):
            continue  # it was reported when it was prepared
        took = datetime.fromisoformat(node["finishedAt"]) - datetime.fromisoformat(node["startedAt"])
        how = "cached" if cached else str(took) if node["phase"] == "Succeeded" else "failed"
        yield f"{'✗' if how == 'failed' else '✓'} {stage:<24}{how:>10}"


def failures(nodes: list[dict[str, Any]], spec: PipelineSpec) -> list[Failure]:
    """The pods that ended a run: the last try of each task, if it failed."""
    last = {_path(node): node for node in nodes if node.get("type") == "Pod" and node.get("finishedAt")}
    return [
        Failure(_stage(node["name"], spec)[0], _pod(node), node["id"], node.get("message", ""))
        for node in last.values()
        if node["phase"] in ("Failed", "Error")
    ]


def cause_in(log: str) -> str:
    """Why a pod failed, from its log: a signal or an error of Kubeflow, or the stage's exception; "" if neither."""
    said = re.findall(r"(?m)(?:failed to execute component|KFP driver): (.*)$", log)
    if said and not said[-1].startswith("exit status"):
        return f"{said[-1]} (out of memory?)" if said[-1] == "signal: killed" else str(said[-1])
    return exception_in(re.sub(r"(?m)^Error: (exit status|signal).*$", "", log))[1]  # Argo adds these lines


def _stage(name: str, spec: PipelineSpec) -> tuple[str, bool]:
    """Stage of a node, with the numbers of its loops' iterations; and whether the node stands for the whole stage."""
    component, stage, rounds, whole = spec[0]["root"], "the pipeline", [], False
    for segment in name.split(".")[2:]:
        tasks = component.get("dag", {}).get("tasks", {})
        task = segment.partition("(")[0]
        driven = task.removesuffix("-driver")
        whole = task in tasks and segment == task
        if begun := re.match(r"iteration-iterations\((\d+):", segment):
            rounds.append(str(int(begun[1]) + 1))
        elif driven in tasks:
            component = spec[0]["components"][tasks[driven]["componentRef"]["name"]]
            stage = _shown(tasks[driven]["taskInfo"]["name"], component)
    return f"{stage} {'.'.join(rounds)}".rstrip(), whole and "executorLabel" in component


def _shown(task: str, component: dict[str, Any]) -> str:
    """Name of a task for the user: kfp writes the stage merge_scores as merge-scores."""
    stage = stage_of(component.get("executorLabel", ""))
    return stage if task == stage.replace("_", "-") else task


def _path(node: dict[str, Any]) -> str:
    """Name of a node without the numbers of tries."""
    return re.sub(r"\(\d+\)", "", node["name"])


def _pod(node: dict[str, Any]) -> str:
    workflow, _, number = node["id"].rpartition("-")
    return f"{workflow}-{node.get('templateName', '')}-{number}"
