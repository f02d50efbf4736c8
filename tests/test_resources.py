"""What the pods of a run ask for is no input of their tasks, which Kubeflow's cache compares."""

from typing import Any

import pytest
import yaml

from mofe.runners.digests import compiled_pipeline
from mofe.runners.pod_resources import INPUTS, with_resources

PIPELINES = ("mofe", "sharded", "tables", "detect")
POOL = {"extract", "finetune", "index", "score", "score-2", "predict"}


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(compiled_pipeline(f"{name}.yaml").read_text("utf-8")))


def resources(pipeline: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    executors = pipeline[0]["deploymentSpec"]["executors"]
    return {name: executors[name]["container"].get("resources", {}) for name in executors}


@pytest.mark.parametrize("name", PIPELINES)
def test_no_task_is_handed_what_its_pod_asks_for(name: str) -> None:
    pipeline = with_resources(documents(name), {"cpu": 4, "memory": "64Gi"})
    tasks = [
        (label, task)
        for owner in (pipeline[0]["root"], *pipeline[0]["components"].values())
        for label, task in owner.get("dag", {}).get("tasks", {}).items()
        if "executorLabel" in pipeline[0]["components"][task["componentRef"]["name"]]
    ]
    assert POOL & {label for label, _ in tasks}
    for label, task in tasks:
        given = task.get("inputs", {}).get("parameters", {})
        assert not INPUTS & given.keys(), label
        assert "{{$" not in str(given), label
    assert "{{$.inputs" not in str(resources(pipeline))


@pytest.mark.parametrize("name", PIPELINES)
def test_a_change_of_resources_changes_only_resources(name: str) -> None:
    before = with_resources(documents(name), {})
    after = with_resources(before, {"memory": "64Gi", "train_accelerators": "8", "accelerators": "0"})
    changed = {label for label, asked in resources(after).items() if asked != resources(before)[label]}
    assert changed
    assert all(label.removeprefix("exec-").rstrip("-0123456789") in POOL for label in changed)
    for pipeline in (before, after):
        for executor in pipeline[0]["deploymentSpec"]["executors"].values():
            executor["container"].pop("resources", None)
    assert before == after


def test_parameters_go_before_defaults_and_finetune_has_its_own_accelerators() -> None:
    asked = resources(with_resources(documents("mofe"), {"accelerators": 0, "train_accelerators": 8, "cpu": 16}))
    assert asked["exec-finetune"] == {
        "accelerator": {"resourceCount": "8", "resourceType": "nvidia.com/gpu"},
        "resourceCpuRequest": "16",
        "resourceMemoryLimit": "32Gi",
        "resourceMemoryRequest": "32Gi",
    }
    assert asked["exec-index"]["accelerator"] == {"resourceCount": "0", "resourceType": "nvidia.com/gpu"}
    assert asked["exec-prepare"] == resources(documents("mofe"))["exec-prepare"], "not of the pool"
