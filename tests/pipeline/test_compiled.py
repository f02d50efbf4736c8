"""The compiled pipeline in the repository: fresh, complete, with the public parameters and one name a stage."""

import importlib
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import yaml
from kfp import compiler

from mofe.cli import pipeline_parameters
from mofe.digests import shipped, stamp
from mofe.stages import STAGES
from pipelines.mofe import COMPILED, mofe

ROOT = Path(__file__).parents[2]


def spec() -> dict:  # type: ignore[type-arg]
    return next(iter(yaml.safe_load_all(COMPILED.read_text())))


def test_the_yaml_is_what_the_code_compiles_to(tmp_path: Path) -> None:
    compiler.Compiler().compile(mofe, str(tmp_path / "fresh.yaml"))
    assert (tmp_path / "fresh.yaml").read_text() == COMPILED.read_text(), "stale: run `make compile` and commit"


def test_the_yaml_ships_with_the_package() -> None:
    assert shipped("mofe.yaml").read_bytes() == COMPILED.read_bytes()


def test_public_parameters() -> None:
    """Renaming or removing one breaks people's parameter files: it needs a line in CHANGELOG and a new version."""
    assert sorted(pipeline_parameters(COMPILED)) == [
        "augmentation", "backbone", "backbone_args", "bank", "batch_size", "checkpoints", "clip_norm", "drop_path",
        "epochs", "evaluation_images_per_class", "expert_init", "fold_lambda", "inference_batch_size", "knn_k",
        "layer_decay", "learning_rate", "max_rejected", "micro_batch_size", "min_learning_rate", "mixup",
        "mixup_scale", "mixup_sigma", "mofe_depth", "negative_weight", "num_experts", "num_workers", "ood_data",
        "precision", "probe_epochs", "probe_learning_rate", "regulariser", "regulariser_weight", "router", "seed",
        "strategy", "synsets", "test_data", "top_k", "train_data", "train_images_per_class", "validation_fraction",
        "warmup_epochs", "weight_decay", "weights",
    ]  # fmt: skip


def test_every_parameter_is_described_and_used() -> None:
    text = COMPILED.read_text()
    for name, parameter in pipeline_parameters(COMPILED).items():
        assert parameter.get("description"), f"{name} has no description"
        assert f"componentInputParameter: {name}\n" in text, f"{name} is accepted and ignored"


def test_one_name_a_stage_everywhere() -> None:
    executors = {re.sub(r"^exec-|-\d+$", "", name) for name in spec()["deploymentSpec"]["executors"]}
    assert executors == set(STAGES)
    for stage in STAGES:
        component = importlib.import_module(f"components.{stage}")
        assert getattr(component, stage).name == stage
        assert importlib.util.find_spec(f"mofe.stages.{stage}")
        assert (ROOT / "tests" / "stages" / f"test_{stage}.py").is_file(), f"tests/stages/test_{stage}.py is missing"
    assert {f.stem for f in (ROOT / "components").glob("*.py")} == {*STAGES, "__init__", "images"}


def test_components_only_call_their_stage() -> None:
    for stage in STAGES:
        lines = (ROOT / "components" / f"{stage}.py").read_text().splitlines()
        body = "\n".join(lines[next(i for i, line in enumerate(lines) if line.startswith("def ")) :])
        assert body.count("import ") == 1
        assert f"stage.{stage}(" in body


def test_every_image_gets_the_digest_of_its_stage() -> None:
    plain, stamped = COMPILED.read_text(), stamp(COMPILED.read_text(), "registry.example/team")
    pattern = r"image: (\S+)/(mofe-\w+):(\S+)"
    before, after = re.findall(pattern, plain), re.findall(pattern, stamped)
    assert [b[1] for b in before] == [a[1] for a in after]
    assert all(registry == "registry.example/team" for registry, _, _ in after)
    assert all(re.fullmatch(re.escape(b[2]) + r"-[0-9a-f]{12}", a[2]) for a, b in zip(after, before, strict=True))


def test_nothing_changes_from_run_to_run(tmp_path: Path) -> None:
    """Compiling in two fresh interpreters gives the same bytes: no time, no path, no order of a set is in it."""
    code = "from kfp import compiler; from pipelines.mofe import mofe; compiler.Compiler().compile(mofe, '{}')"
    outputs = []
    for seed in ("1", "2"):
        file = tmp_path / f"{seed}.yaml"
        environment = {"PYTHONHASHSEED": seed, "PATH": ""}
        subprocess.run([sys.executable, "-c", code.format(file)], check=True, cwd=ROOT, env=environment)
        outputs.append(file.read_bytes())
    assert outputs[0] == outputs[1]
