"""What the compiled YAML asks of a cluster, task by task; and that each parameter reaches where it is used."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from mofe.runners.pipeline_spec import stage_of
from pipelines.placement import SECRET_KEYS

ROOT = Path(__file__).parents[2]
ACCELERATED = {"extract", "finetune", "index", "score", "predict"}

every = pytest.mark.parametrize("name", ["mofe", "sharded", "tables", "detect"])


def documents(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The pipeline, and what is Kubernetes' own in it: executor → settings."""
    pipeline, platform = yaml.safe_load_all((ROOT / "pipelines" / "compiled" / f"{name}.yaml").read_text())
    return pipeline, platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]


def tasks(pipeline: dict[str, Any]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Every task with the component in whose graph it stands."""
    components = [pipeline["root"], *pipeline["components"].values()]
    return [(owner, task) for owner in components if "dag" in owner for task in owner["dag"]["tasks"].values()]


def containers(pipeline: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {name: spec["container"] for name, spec in pipeline["deploymentSpec"]["executors"].items()}


@every
def test_accelerators_and_nodes_are_chosen_by_parameters(name: str) -> None:
    pipeline, kubernetes = documents(name)
    for executor, container in containers(pipeline).items():
        stage, own = stage_of(executor), kubernetes[executor]
        resources = container["resources"]
        assert resources["resourceMemoryLimit"], f"{executor} has no limit of memory"
        assert resources["resourceCpuRequest"], f"{executor} requests no CPU"
        assert ("accelerator" in resources) == (stage in ACCELERATED)
        if stage in ACCELERATED:
            count = "train_accelerators" if stage == "finetune" else "accelerators"
            assert re.search(rf"--{count}'", resources["accelerator"]["resourceCount"])
            assert re.search(r"--accelerator'", resources["accelerator"]["resourceType"])
            assert own["nodeSelector"]["nodeSelectorJson"]["componentInputParameter"].endswith("node_selector")
            assert own["tolerations"][0]["tolerationJson"]["componentInputParameter"].endswith("tolerations")
            (memory,) = own["emptyDirMounts"]
            assert (memory["mountPath"], memory["medium"], memory["sizeLimit"]) == ("/dev/shm", "Memory", "8Gi")


@every
def test_what_kubeflow_puts_into_a_pod_is_text(name: str) -> None:
    """Its driver takes a number for an empty text, and asks for no accelerator then."""
    pipeline, _ = documents(name)
    checked = 0
    for owner, task in tasks(pipeline):
        component = pipeline["components"][task["componentRef"]["name"]]
        if "executorLabel" not in component:
            continue
        resources = pipeline["deploymentSpec"]["executors"][component["executorLabel"]]["container"]["resources"]
        asked = [*resources.values(), *resources.get("accelerator", {}).values()]
        for channel in re.findall(r"inputs\.parameters\['([^']+)'\]", " ".join(map(str, asked))):
            given = task["inputs"]["parameters"][channel]["componentInputParameter"]
            assert owner["inputDefinitions"]["parameters"][given]["parameterType"] == "STRING", f"{channel} of {task}"
            checked += 1
    assert checked


@every
def test_no_loop_is_over_artifacts(name: str) -> None:
    """kfp compiles one, and runs it on this machine; Kubeflow's API server refuses the run."""
    pipeline, _ = documents(name)
    loops = [task for _, task in tasks(pipeline) if task.keys() & {"parameterIterator", "artifactIterator"}]
    assert loops
    assert not any("artifactIterator" in task for task in loops)


@every
def test_every_task_has_credentials_a_run_id_a_timeout_and_another_try(name: str) -> None:
    pipeline, kubernetes = documents(name)
    for executor in containers(pipeline):
        own = kubernetes[executor]
        (secret,) = own["secretAsEnv"]
        assert {key["envVar"] for key in secret["keyToEnv"]} == set(SECRET_KEYS)
        assert secret["optional"] is True
        assert own["fieldPathAsEnv"] == [{"name": "KFP_RUN_ID", "fieldPath": "metadata.labels['pipeline/runid']"}]
        assert int(own["activeDeadlineSeconds"]) >= 24 * 60 * 60
    for _, task in tasks(pipeline):
        component = pipeline["components"][task["componentRef"]["name"]]
        if "executorLabel" in component:
            retries = task["retryPolicy"]
            assert retries["backoffDuration"] == "60s"
            stage = stage_of(component["executorLabel"])
            assert retries["maxRetryCount"] == (10 if stage == "finetune" else 2), "only training goes on where it was"
            deadline = int(kubernetes[component["executorLabel"]]["activeDeadlineSeconds"])
            pauses = 60 * (2 ** retries["maxRetryCount"] - 1)
            together = (retries["maxRetryCount"] + 1) * deadline + pauses
            assert int(retries["backoffMaxDuration"].removesuffix("s")) >= together, (
                "counted from the first try's start"
            )


@every
def test_what_a_task_takes_from_its_surroundings_is_there(name: str) -> None:
    """kfp leaves a parameter out of a loop if only a resource depends on it: such a YAML fails on the cluster."""
    pipeline, kubernetes = documents(name)
    for owner, task in tasks(pipeline):
        known = set(owner.get("inputDefinitions", {}).get("parameters", {}))
        given = task.get("inputs", {}).get("parameters", {})
        for source in given.values():
            if "componentInputParameter" in source:
                assert source["componentInputParameter"] in known, source
        executor = pipeline["components"][task["componentRef"]["name"]].get("executorLabel")
        if executor:
            settings = f"{containers(pipeline)[executor]['resources']} {kubernetes[executor]}"
            for parameter in re.findall(r"componentInputParameter': '([^']+)'", settings):
                assert parameter in known, f"{executor}: {parameter}"
            for parameter in re.findall(r"inputs\.parameters\['+([^']+)'", settings):
                assert parameter in given or parameter in known, f"{executor}: {parameter}"


def test_no_credential_is_a_parameter() -> None:
    pipeline, _ = documents("mofe")
    names = pipeline["root"]["inputDefinitions"]["parameters"]
    assert not [name for name in names if re.search(r"(?i)key|password|token$|secret", name)]
    assert names["credentials"]["defaultValue"] == "mofe-credentials"
