"""Compiled pipelines cut down to one stage: whole in themselves, and no larger than needed."""

from typing import Any

import pytest
import yaml
from kfp import components

from mofe.runners.digests import compiled_pipeline, stamp
from mofe.runners.pipeline_spec import PipelineSpec, stage_of, subgraph, with_image, without_cache
from mofe.stages import STAGES

OF_A_COMPARISON = {"plan_runs", "unpack_run", "compare_runs"}
OF_A_BATCH = {"fingerprint_batch", "list_files", "predict", "merge_predictions"}
OF_SHARDS = {"plan_shards", "merge_features", "merge_scores"}
CASES = [
    *(("mofe", stage) for stage in STAGES if stage not in OF_A_COMPARISON | OF_A_BATCH | OF_SHARDS),
    *(("sharded", stage) for stage in STAGES if stage not in OF_A_COMPARISON | OF_A_BATCH),
    *(("tables", stage) for stage in STAGES if stage not in OF_A_BATCH | OF_SHARDS),
    *(("detect", stage) for stage in STAGES if stage in OF_A_BATCH),
]

every_stage = pytest.mark.parametrize(("pipeline", "stage"), CASES)


def spec_of(pipeline: str) -> PipelineSpec:
    return list(yaml.safe_load_all(stamp(compiled_pipeline(f"{pipeline}.yaml").read_text(), "registry.example/team")))


def graphs(pipeline: dict[str, Any]) -> list[dict[str, Any]]:
    return [owner for owner in [pipeline["root"], *pipeline["components"].values()] if "dag" in owner]


@every_stage
def test_what_is_left_is_whole(pipeline: str, stage: str) -> None:
    whole = spec_of(pipeline)
    part = subgraph(whole, stage)
    assert whole == spec_of(pipeline), "the whole is left as it was"
    graph, platform = part
    defined, used = graph["components"], set()
    for owner in graphs(graph):
        tasks = owner["dag"]["tasks"]
        for task in tasks.values():
            used.add(task["componentRef"]["name"])
            assert set(task.get("dependentTasks", [])) <= set(tasks)
            for source in [
                *task.get("inputs", {}).get("parameters", {}).values(),
                *task.get("inputs", {}).get("artifacts", {}).values(),
            ]:
                made = source.get("taskOutputParameter") or source.get("taskOutputArtifact")
                if made:
                    (key,) = set(made) - {"producerTask"}
                    outputs = defined[tasks[made["producerTask"]]["componentRef"]["name"]]["outputDefinitions"]
                    assert any(made[key] in of_kind for of_kind in outputs.values())
        for output in owner["dag"].get("outputs", {}).get("artifacts", {}).values():
            assert all(selector["producerSubtask"] in tasks for selector in output["artifactSelectors"])
    assert used == set(defined), "no component is left over"
    executors = {c["executorLabel"] for c in defined.values() if "executorLabel" in c}
    assert set(graph["deploymentSpec"]["executors"]) == executors
    assert set(platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]) == executors
    components.load_component_from_text(yaml.safe_dump(graph))  # kfp's own check


@every_stage
def test_the_stage_alone_takes_nothing_from_the_cache(pipeline: str, stage: str) -> None:
    graph, _ = without_cache(subgraph(spec_of(pipeline), stage), stage)
    ran = {
        stage_of(graph["components"][task["componentRef"]["name"]]["executorLabel"])
        for owner in graphs(graph)
        for task in owner["dag"]["tasks"].values()
        if task.get("cachingOptions") == {} and "executorLabel" in graph["components"][task["componentRef"]["name"]]
    }
    first = "fingerprint_batch" if pipeline == "detect" else "fingerprint"
    assert ran == {stage, first} - ({first} if stage == "plan_runs" else set())


def test_what_no_cache_holds_hands_on_parameters_alone() -> None:
    """The record of a run keeps them as JSON, to be taken from there when a stage below runs again."""
    firsts = {"mofe": "fingerprint", "sharded": "fingerprint", "tables": "fingerprint", "detect": "fingerprint_batch"}
    for pipeline, first in firsts.items():
        graph, _ = spec_of(pipeline)
        assert set(graph["components"][f"comp-{first.replace('_', '-')}"]["outputDefinitions"]) == {"parameters"}


def test_nothing_after_the_stage_is_left() -> None:
    graph, _ = subgraph(spec_of("mofe"), "partition")
    assert sorted(graph["root"]["dag"]["tasks"]) == [
        "check-classes", "extract", "fingerprint", "partition", "prepare", "prepare-2", "prepare-ood",
    ]  # fmt: skip
    assert graph["pipelineInfo"]["name"] == "mofe", "Kubeflow looks into its cache by this name"


def test_one_stage_gets_the_present_image() -> None:
    old = spec_of("mofe")
    for executor in old[0]["deploymentSpec"]["executors"].values():
        executor["container"]["image"] = executor["container"]["image"].rpartition("-")[0] + "-000000000000"
    graph = with_image(old, "score", "registry.example/other")[0]
    images = {name: e["container"]["image"] for name, e in graph["deploymentSpec"]["executors"].items()}
    changed = {name for name, image in images.items() if not image.endswith("-000000000000")}
    assert changed == {"exec-score", "exec-score-2"}
    assert all(images[name].startswith("registry.example/other/mofe-score:") for name in changed)
