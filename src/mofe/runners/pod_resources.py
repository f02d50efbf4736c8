"""Writes the resources that the pods of a run request into its pipeline, as constants.

As parameters of the pipeline they would be inputs of the tasks, and Kubeflow's cache compares all inputs. More memory
for one stage would then run all stages again. The cache does not compare constants of the pods.
"""

import copy
from collections.abc import Mapping
from typing import Any

from mofe.runners.pipeline_spec import PipelineSpec, stage_of

RESOURCES = ("accelerator", "accelerators", "train_accelerators", "cpu", "memory")
"""Parameters of the pipelines that set requests of pods, and do not change results."""
INPUTS = {
    "accelerator_count", "accelerator_type", "cpu_request", "memory_limit", "memory_request",
    *(f"pipelinechannel--{name}" for name in RESOURCES),
}  # fmt: skip
"""Names of the inputs by which kfp passes these parameters to tasks."""


def with_resources(spec: PipelineSpec, parameters: Mapping[str, Any], stage: str = "") -> PipelineSpec:
    """Copy a pipeline and write the requests of its accelerator pods: the parameters of a run, or the defaults.

    Accelerator pods are those with a node selector. Requests that were written before are replaced.

    Args:
        spec: compiled pipeline.
        parameters: parameters of the run.
        stage: stage whose pods are changed; "" changes all. Kubeflow's cache compares the other stages as before.
    """
    changed = copy.deepcopy(spec)
    pipeline, platform = changed[0], changed[1]["platforms"]["kubernetes"] if changed[1:] else {}
    known = pipeline["root"].get("inputDefinitions", {}).get("parameters", {})
    requests = {name: str(parameters.get(name, known.get(name, {}).get("defaultValue", ""))) for name in RESOURCES}
    configured = platform.get("deploymentSpec", {}).get("executors", {})
    pool = {n for n, config in configured.items() if "nodeSelector" in config and stage in ("", stage_of(n))}
    for name in pool:
        count = requests["train_accelerators" if stage_of(name) == "finetune" else "accelerators"]
        pipeline["deploymentSpec"]["executors"][name]["container"]["resources"] = {
            "accelerator": {"resourceCount": count, "resourceType": requests["accelerator"]},
            "resourceCpuRequest": requests["cpu"],
            "resourceMemoryLimit": requests["memory"],
            "resourceMemoryRequest": requests["memory"],
        }
    for owner in (pipeline["root"], *pipeline["components"].values()):
        for task in owner.get("dag", {}).get("tasks", {}).values():
            if pipeline["components"][task["componentRef"]["name"]].get("executorLabel") in pool:
                inputs = task["inputs"]["parameters"]
                task["inputs"]["parameters"] = {name: given for name, given in inputs.items() if name not in INPUTS}
    return changed
