"""What a run on Kubeflow has come to, in terms of the pipeline's stages.

Read from the Argo workflow that carries the run out, which API v1beta1 hands out with the run. What v2beta1 tells of
tasks has neither their graphs, nor what was cached, nor why one failed, and stops where the workflow outgrows a
megabyte and Argo compresses it: after a few OOD sets.

A node of the workflow is named by its way through the graphs, ``mofe-kpx9z(0).root(0).score(0).executor(0)``, with the
tries of each part. A stage is the node of its task; in it is an executor, a pod, which is skipped if its result was in
the cache; before it a driver.
"""

import base64
import gzip
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from mofe.runners.pipeline_spec import FINDS, PipelineSpec, stage_of
from mofe.runners.stage_log import exception_in

ENDED = {"Succeeded", "Failed", "Error"}


@dataclass(frozen=True)
class Failure:
    """The pod that made a stage fail."""

    stage: str
    """With the rounds of its loops."""
    pod: str
    node: str
    """By which its log is filed."""
    message: str
    """What Argo says of it."""


def nodes_of(status: dict[str, Any]) -> list[dict[str, Any]]:
    """The nodes of an Argo workflow, given its status, as they ended; those without an end last."""
    nodes = status.get("nodes") or {}
    if "compressedNodes" in status:
        nodes = json.loads(gzip.decompress(base64.b64decode(status["compressedNodes"])))
    return sorted(nodes.values(), key=lambda node: (node.get("finishedAt") or "~", node["name"]))


def is_elsewhere(status: dict[str, Any]) -> bool:
    """Whether Argo keeps the nodes of a workflow in its database, where this API does not look."""
    return "offloadNodeStatusVersion" in status


def report_ended(nodes: list[dict[str, Any]], spec: PipelineSpec, told: set[str]) -> Iterator[str]:
    """A line for each stage that has come to its end since the last look.

    Args:
        nodes: from :func:`nodes_of`.
        spec: the compiled pipeline.
        told: the nodes that were told; written to.
    """
    skipped = {_way(node) for node in nodes if node.get("phase") in ("Skipped", "Omitted")}
    for node in nodes:
        stage, whole = _stage(node["name"], spec)
        if not whole or node.get("phase") not in ENDED or node["id"] in told or not node.get("finishedAt"):
            continue
        told.add(node["id"])
        cached = f"{_way(node)}.executor" in skipped
        if cached and stage.startswith(FINDS):
            continue  # told when it was prepared
        took = datetime.fromisoformat(node["finishedAt"]) - datetime.fromisoformat(node["startedAt"])
        how = "cached" if cached else str(took) if node["phase"] == "Succeeded" else "failed"
        yield f"{'✗' if how == 'failed' else '✓'} {stage:<24}{how:>10}"


def failures(nodes: list[dict[str, Any]], spec: PipelineSpec) -> list[Failure]:
    """The pods that ended a run: of each task's tries the last, if it failed."""
    last = {_way(node): node for node in nodes if node.get("type") == "Pod" and node.get("finishedAt")}
    return [
        Failure(_stage(node["name"], spec)[0], _pod(node), node["id"], node.get("message", ""))
        for node in last.values()
        if node["phase"] in ("Failed", "Error")
    ]


def cause_in(log: str) -> str:
    """Why a pod failed, from its log: what ended its stage from outside, or the stage's exception; "" if neither."""
    said = re.findall(r"(?m)(?:failed to execute component|KFP driver): (.*)$", log)
    if said and not said[-1].startswith("exit status"):
        return f"{said[-1]} (out of memory?)" if said[-1] == "signal: killed" else str(said[-1])
    return exception_in(re.sub(r"(?m)^Error: (exit status|signal).*$", "", log))[1]  # Argo's last words


def _stage(name: str, spec: PipelineSpec) -> tuple[str, bool]:
    """To which stage a node belongs, with the rounds of its loops; and whether it is the whole of it."""
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
    """The name of a task as people know it: kfp writes the stage merge_scores as merge-scores."""
    stage = stage_of(component.get("executorLabel", ""))
    return stage if task == stage.replace("_", "-") else task


def _way(node: dict[str, Any]) -> str:
    """A node's name without its tries."""
    return re.sub(r"\(\d+\)", "", node["name"])


def _pod(node: dict[str, Any]) -> str:
    workflow, _, number = node["id"].rpartition("-")
    return f"{workflow}-{node.get('templateName', '')}-{number}"
