"""The compiled pipeline in the repository: fresh, complete, with the public parameters and one name a stage."""

import importlib
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from kfp import compiler

from mofe.parameters.file import pipeline_parameters
from mofe.runners.digests import compiled_pipeline, stamp
from mofe.runners.pipeline_spec import stage_of
from mofe.stages import STAGES
from pipelines.detect import detect
from pipelines.mofe import mofe
from pipelines.sharded import sharded
from pipelines.tables import tables

ROOT = Path(__file__).parents[2]
PIPELINES = {"mofe": mofe, "sharded": sharded, "tables": tables, "detect": detect}
COMPILED = {name: ROOT / "pipelines" / "compiled" / f"{name}.yaml" for name in PIPELINES}
OF_A_COMPARISON = {"plan_runs", "unpack_run", "compare_runs"}
OF_A_BATCH = {"fingerprint_batch", "list_files", "predict", "merge_predictions"}
OF_SHARDS = {"plan_shards", "merge_features", "merge_scores"}

every = pytest.mark.parametrize("name", PIPELINES)


def spec(name: str) -> dict:  # type: ignore[type-arg]
    return next(iter(yaml.safe_load_all(COMPILED[name].read_text())))


@every
def test_the_yaml_is_what_the_code_compiles_to(name: str, tmp_path: Path) -> None:
    compiler.Compiler().compile(PIPELINES[name], str(tmp_path / "fresh.yaml"))
    assert (tmp_path / "fresh.yaml").read_text() == COMPILED[name].read_text(), "stale: run `make compile` and commit"


@every
def test_the_yaml_ships_with_the_package(name: str) -> None:
    assert compiled_pipeline(f"{name}.yaml").read_bytes() == COMPILED[name].read_bytes()


def test_public_parameters() -> None:
    """Renaming or removing one breaks people's parameter files: it needs a line in CHANGELOG and a new version."""
    assert sorted(pipeline_parameters(COMPILED["mofe"])) == [
        "accelerator", "accelerators", "augmentation", "backbone", "backbone_args", "bank", "batch_size",
        "checkpoints", "clip_norm", "compare", "cpu", "credentials", "drop_path", "epochs",
        "evaluation_images_per_class", "expert_init", "fold_lambda", "inference_batch_size", "knn_k", "layer_decay",
        "learning_rate", "max_rejected", "memory", "micro_batch_size", "min_learning_rate", "mixup", "mixup_scale",
        "mixup_sigma", "mofe_depth",
        "negative_weight", "node_resources", "node_selector", "num_experts", "num_nodes", "num_workers", "ood_data",
        "precision", "probe_epochs", "probe_learning_rate", "regulariser", "regulariser_weight", "router", "seed",
        "strategy", "synsets", "test_data", "text_embeddings", "text_model", "text_negatives", "text_templates",
        "text_weights", "tolerations", "top_k", "train_accelerators", "train_data",
        "train_images_per_class", "validation_fraction", "warmup_epochs", "weight_decay", "weights",
    ]  # fmt: skip


def test_public_parameters_of_a_batch() -> None:
    assert sorted(pipeline_parameters(COMPILED["detect"])) == [
        "accelerator", "accelerators", "batch_size", "cpu", "credentials", "detector", "images", "memory", "neighbours",
        "node_selector", "score", "shards", "threshold", "tolerations",
    ]  # fmt: skip


def test_a_comparison_takes_the_same_parameters_and_what_to_compare() -> None:
    one, several = (pipeline_parameters(COMPILED[name]) for name in ("mofe", "tables"))
    of_compare = {name for name in one if name.startswith("text_")} | {"compare"}
    assert set(several) == set(one) - {"seed"} - of_compare | {"tables", "configurations", "seeds"}
    assert {n: p for n, p in several.items() if n in one} == {n: p for n, p in one.items() if n in several}


def test_in_shards_it_takes_one_parameter_more() -> None:
    one, split = (pipeline_parameters(COMPILED[name]) for name in ("mofe", "sharded"))
    assert set(split) - set(one) == {"shards"}
    assert {name: split[name] for name in one} == one
    assert spec("sharded")["root"]["outputDefinitions"] == spec("mofe")["root"]["outputDefinitions"]


@every
def test_every_parameter_is_described_and_used(name: str) -> None:
    text = COMPILED[name].read_text()
    for parameter, definition in pipeline_parameters(COMPILED[name]).items():
        assert definition.get("description"), f"{parameter} has no description"
        # inside a loop it goes by the name of the channel that it came through
        used = f"componentInputParameter: (pipelinechannel--)?{parameter}\n"
        assert re.search(used, text), f"{parameter} is accepted and ignored"


def test_one_name_a_stage_everywhere() -> None:
    of_tables = set(STAGES) - OF_A_BATCH - OF_SHARDS
    of_a_run = of_tables - OF_A_COMPARISON
    expected = {"mofe": of_a_run, "sharded": of_a_run | OF_SHARDS, "tables": of_tables, "detect": OF_A_BATCH}
    for pipeline, stages in expected.items():
        executors = {stage_of(name) for name in spec(pipeline)["deploymentSpec"]["executors"]}
        assert executors == stages
    for stage in STAGES:
        component = importlib.import_module(f"components.{stage}")
        assert getattr(component, stage).name == stage.replace("_", "-")  # kfp's way of writing it
        assert importlib.util.find_spec(f"mofe.stages.{stage}")
        assert (ROOT / "tests" / "stages" / f"test_{stage}.py").is_file(), f"tests/stages/test_{stage}.py is missing"
    assert {f.stem for f in (ROOT / "components").glob("*.py")} == {*STAGES, "__init__", "images"}


def test_components_only_call_their_stage() -> None:
    for stage in STAGES:
        lines = (ROOT / "components" / f"{stage}.py").read_text().splitlines()
        body = "\n".join(lines[next(i for i, line in enumerate(lines) if line.startswith("def ")) :])
        assert body.count("import ") == 1
        assert f"stage.{stage}(" in body


@every
def test_every_image_gets_the_digest_of_its_stage(name: str) -> None:
    plain, stamped = COMPILED[name].read_text(), stamp(COMPILED[name].read_text(), "registry.example/team")
    pattern = r"image: (\S+)/(mofe-\w+):(\S+)"
    before, after = re.findall(pattern, plain), re.findall(pattern, stamped)
    assert [b[1] for b in before] == [a[1] for a in after]
    assert all(registry == "registry.example/team" for registry, _, _ in after)
    assert all(re.fullmatch(re.escape(b[2]) + r"-[0-9a-f]{12}", a[2]) for a, b in zip(after, before, strict=True))


@pytest.mark.integration
@every
def test_nothing_changes_from_run_to_run(name: str, tmp_path: Path) -> None:
    """Compiling in two fresh interpreters gives the same bytes: no time, no path, no order of a set is in it."""
    code = f"from kfp import compiler; from pipelines.{name} import {name}; "
    code += f"compiler.Compiler().compile({name}, '{{}}')"
    outputs = []
    for seed in ("1", "2"):
        file = tmp_path / f"{seed}.yaml"
        environment = {"PYTHONHASHSEED": seed, "PATH": ""}
        subprocess.run([sys.executable, "-c", code.format(file)], check=True, cwd=ROOT, env=environment)
        outputs.append(file.read_bytes())
    assert outputs[0] == outputs[1]
