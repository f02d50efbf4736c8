"""Writes what the pods of a run ask for into its pipeline.

As parameters of the pipeline these values are inputs of the tasks, and Kubeflow's cache compares all inputs: more
memory for the stage that had too little would train again. As constants of the pods it does not compare them.
"""

import copy
from collections.abc import Mapping
from typing import Any

from mofe.runners.pipeline_spec import PipelineSpec, stage_of

RESOURCES = ("accelerator", "accelerators", "train_accelerators", "cpu", "memory")
"""The parameters of the pipelines that are asked for, and change no result."""
INPUTS = {
    "accelerator_count", "accelerator_type", "cpu_request", "memory_limit", "memory_request",
    *(f"pipelinechannel--{name}" for name in RESOURCES),
}  # fmt: skip
"""Under which kfp hands them to tasks."""


def with_resources(spec: PipelineSpec, parameters: Mapping[str, Any], stage: str = "") -> PipelineSpec:
    """A compiled pipeline whose pods of the pool ask for what a run's parameters say, or the pipeline's defaults.

    The pool's are the pods whose nodes can be chosen. A pipeline into which this was written before asks anew.

    Args:
        spec: the pipeline.
        parameters: of the run.
        stage: only its pods; those of the others, and so what the cache compares of them, remain as they are.
    """
    changed = copy.deepcopy(spec)
    pipeline, platform = changed[0], changed[1]["platforms"]["kubernetes"] if changed[1:] else {}
    known = pipeline["root"].get("inputDefinitions", {}).get("parameters", {})
    asked = {name: str(parameters.get(name, known.get(name, {}).get("defaultValue", ""))) for name in RESOURCES}
    configured = platform.get("deploymentSpec", {}).get("executors", {})
    pool = {n for n, config in configured.items() if "nodeSelector" in config and stage in ("", stage_of(n))}
    for name in pool:
        count = asked["train_accelerators" if stage_of(name) == "finetune" else "accelerators"]
        pipeline["deploymentSpec"]["executors"][name]["container"]["resources"] = {
            "accelerator": {"resourceCount": count, "resourceType": asked["accelerator"]},
            "resourceCpuRequest": asked["cpu"],
            "resourceMemoryLimit": asked["memory"],
            "resourceMemoryRequest": asked["memory"],
        }
    for owner in (pipeline["root"], *pipeline["components"].values()):
        for task in owner.get("dag", {}).get("tasks", {}).values():
            if pipeline["components"][task["componentRef"]["name"]].get("executorLabel") in pool:
                inputs = task["inputs"]["parameters"]
                task["inputs"]["parameters"] = {name: given for name, given in inputs.items() if name not in INPUTS}
    return changed
