"""Editing a file changes the digests of the stages that import it, and of no others."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from importlib.util import source_from_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import striped
from tiny_clip import BACKBONE, write_tiny_clip

import mofe
from mofe.parameters.file import pipeline_parameters
from mofe.report.configurations import CHANGEABLE
from mofe.runners.digests import (
    compiled_pipeline,
    dockerfile_target,
    images_of,
    package_digest,
    source_files,
    stage_digest,
    stamp,
)
from mofe.stages import STAGES
from mofe.stages.plan_runs import plan_runs

pytestmark = pytest.mark.integration

SOURCE = Path(mofe.__file__).parent
ANSWER = """
import json, sys
from mofe.runners import digests
from mofe.stages import STAGES
for line in sys.stdin:
    digests._import_graph.cache_clear()
    print(json.dumps({stage: digests.stage_digest(stage, "base") for stage in STAGES}), flush=True)
"""
"""A line in: the digests of every stage out. One process answers for all edits, because it takes seconds to start."""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("tree")
    shutil.copytree(SOURCE, target / "mofe", ignore=shutil.ignore_patterns("__pycache__"))
    return target


@pytest.fixture(scope="module")
def digests(tree: Path) -> Iterator[Callable[[], dict[str, str]]]:
    """Of every stage, by the copy of the package as it is now."""
    command = [sys.executable, "-c", ANSWER]
    around = {"PYTHONPATH": str(tree), "PATH": ""}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=around) as process:
        assert process.stdin is not None and process.stdout is not None

        def ask() -> dict[str, str]:
            print(file=process.stdin, flush=True)
            return json.loads(process.stdout.readline())  # type: ignore[union-attr]

        yield ask
        process.stdin.close()


@pytest.fixture(scope="module")
def unedited(digests: Callable[[], dict[str, str]]) -> dict[str, str]:
    return digests()


@pytest.mark.parametrize(
    ("file", "stages"),
    [
        ("artifacts/metrics.py", {"evaluate", "compare_runs"}),
        ("artifacts/detector.py", {"index", "score", "predict"}),
        ("detection/scores.py", {"texts", "index", "score", "predict"}),
        ("detection/metrics.py", {"index", "evaluate", "predict"}),
        ("report/page.html", {"evaluate"}),
        ("partitioning/seeds.py", {"check_classes", "partition"}),
        ("partitioning/wordnet.py", {"check_classes", "texts", "partition"}),
        ("models/text_model.py", {"texts"}),
        ("detection/texts.py", {"texts", "index", "score", "predict"}),
        ("detection/text_space.py", {"index", "score", "predict"}),
        ("training/losses.py", {"finetune"}),
        ("models/backbone.py", {"extract", "finetune", "index", "score", "predict"}),
        ("models/weights.py", {"extract", "texts", "finetune", "index", "score", "predict"}),
        ("data/images.py", {"prepare", "extract", "texts", "finetune", "index", "score", "predict"}),
        ("stages/prepare.py", {"prepare"}),
        ("artifacts/parts.py", {"plan_shards", "extract", "merge_features", "score", "merge_scores"}),
        ("partitioning/prototypes.py", {"extract", "merge_features"}),
        ("report/gallery.py", {"score", "merge_scores"}),
        ("inference/detect.py", {"predict"}),
        ("inference/mlflow_model.py", {"index"}),  # handed to MLflow, not imported
        ("artifacts/predictions.py", {"list_files", "predict", "merge_predictions"}),
        ("inference/predictions.py", {"predict"}),
        ("data/listing.py", {"list_files", "predict"}),
        ("errors.py", set(STAGES)),
        ("storage/locations.py", set(STAGES) - {"plan_runs", "unpack_run"}),
        ("storage/writing.py", set(STAGES) - {"plan_runs", "unpack_run", "fingerprint_batch"}),
        ("report/configurations.py", {"plan_runs", "unpack_run", "compare_runs"}),
        ("artifacts/recipe.py", {"plan_runs", "unpack_run", "finetune", "compare_runs"}),
        ("report/tables.html", {"compare_runs"}),
        ("report/paper.csv", {"compare_runs"}),
        ("report/shell.html", {"evaluate", "compare_runs"}),
        ("cli/main.py", set()),
        ("inference/server.py", set()),
        ("runners/local.py", set()),
        ("runners/console.py", set()),
        ("docker/constraints.txt", set(STAGES)),
    ],
)
def test_an_edit_reaches_the_stages_that_import_the_file(
    tree: Path, digests: Callable[[], dict[str, str]], unedited: dict[str, str], file: str, stages: set[str]
) -> None:
    path = tree / "mofe" / file
    content = path.read_text()
    path.write_text(content + "\n# edited\n")
    after = digests()
    path.write_text(content)
    assert {stage for stage in STAGES if unedited[stage] != after[stage]} == stages


IMPORT_EACH = """
import os, sys
import pyarrow.parquet, sklearn.cluster, timm, torchvision  # slow to import, so once for all
for stage in sys.argv[1:]:
    if not os.fork():
        __import__(f"mofe.stages.{stage}")
        print(stage, *(name for name in sys.modules if name.startswith("mofe")), flush=True)
        os._exit(0)
    os.wait()
"""


def test_what_is_imported_is_in_the_digest() -> None:
    """Lazy packages hide imports from static analysis; every module that a stage loads must be found all the same."""
    done = subprocess.run([sys.executable, "-c", IMPORT_EACH, *STAGES], capture_output=True, text=True, check=True)
    loaded = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines()}
    assert set(loaded) == set(STAGES)
    for stage, modules in loaded.items():
        known = {file.relative_to(SOURCE) for file in source_files(f"mofe.stages.{stage}")}
        for module in modules:
            place = Path(*module.split(".")[1:])
            assert place / "__init__.py" in known or place.with_suffix(".py") in known, f"{stage} imports {module}"


def write_data(folder: Path) -> None:
    """Images in folders of their classes, to train and to test with, and unknown ones; a text model."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 10), ("test", 3), ("odd", 3)):
        for label, name in enumerate(("dog", "cat", "truck", "ship")):
            place = folder / part / name
            place.mkdir(parents=True)
            for i in range(count):
                (place / f"{i}.png").write_bytes(striped(label, rng))
    write_tiny_clip(folder / "clip")


def calls_of_every_stage(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The arguments of every stage, on the data in the folder and on what the stages before have written there."""

    def at(*names: str) -> dict[str, str]:
        return {name: str(folder / name) for name in names}

    odd, weights = str(folder / "odd"), str(folder / "clip" / "open_clip_model.safetensors")
    unknown = {"dataset": "odd", "uri": odd}
    text_model = f"local-dir:{folder}/clip"
    sets = {"train": "train", "test": "test", "odd": "ood"}
    embedded = {"images": str(folder / "set-train"), "weights": weights, "num_workers": 0, **BACKBONE}
    small = {
        "epochs": 1,
        "warmup_epochs": 0.0,
        "probe_epochs": 1,
        "batch_size": 16,
        "micro_batch_size": 16,
        "num_workers": 0,
    }
    scored = {**at("detector"), "num_workers": 0}
    defaults = pipeline_parameters(compiled_pipeline("tables.yaml"))
    base = {name: defaults[name]["defaultValue"] for name in CHANGEABLE}
    compared = {"tables": [], "configurations": [{"name": "few", "num_experts": 2}]}
    (planned,) = plan_runs(**compared, seeds=[0], base=base)
    return {
        "fingerprint": [
            {"train_data": str(folder / "train"), "test_data": str(folder / "test"), "ood_data": [unknown],
             "weights": weights, "text_model": text_model}
        ],
        "prepare": [
            {"source": str(folder / name), "images": str(folder / f"set-{name}"), "name": name, "role": role}
            for name, role in sets.items()
        ],
        "check_classes": [{"train": str(folder / "set-train"), "test": str(folder / "set-test"), "num_experts": 2}],
        "plan_shards": [{"images": str(folder / "set-train")}],
        "extract": [
            {**embedded, **at("features")}, {**embedded, "features": str(folder / "features-0"), "shards": 2},
        ],
        "merge_features": [{"parts": [str(folder / "features-0")], "features": str(folder / "features-merged")}],
        "texts": [{"images": embedded["images"], **at("features", "texts"), "text_model": text_model}],
        "plan_runs": [{**compared, "seeds": [0], "base": base}],
        "unpack_run": [{"run": planned}],
        "partition": [{**at("features", "partition"), "num_experts": 2}],
        "finetune": [
            {"images": embedded["images"], **at("features", "partition", "model", "history", "checkpoints"), **small}
        ],
        "index": [{"images": embedded["images"], **at("features", "model", "detector", "texts"), "num_workers": 0}],
        "score": [
            {"images": str(folder / "set-test"), "scores": str(folder / "scores-test"), **scored},
            {"images": str(folder / "set-odd"), "scores": str(folder / "scores-0"), **scored, "shards": 2},
        ],
        "merge_scores": [{"parts": [str(folder / "scores-0")], "scores": str(folder / "scores-odd")}],
        "evaluate": [
            {"scores": [str(folder / "scores-test"), str(folder / "scores-odd")],
             **at("partition", "history", "metrics", "roc", "report"), "ood_data": [{**unknown, "kind": "near"}],
             "name": planned["name"]}
        ],
        "compare_runs": [
            {"metrics": [str(folder / "metrics")], "runs": [planned], **compared, **at("results"),
             "report": str(folder / "tables")}
        ],
        "fingerprint_batch": [{"images": [odd], **at("detector")}],
        "list_files": [{"images": [odd], **at("files"), "shards": 1}],
        "predict": [
            {**at("files", "detector"), "predictions": str(folder / "predictions-0"), "shard": 0, "neighbours": 1}
        ],
        "merge_predictions": [{"shards": [str(folder / "predictions-0")], **at("predictions", "counts")}],
    }  # fmt: skip


def in_the_package(seen: Iterable[str]) -> set[Path]:
    """The package's own files among the paths that were opened and the modules that were imported."""
    files = set()
    for name in seen:
        file = Path(name)
        if name.split(".")[0] == "mofe":
            place = SOURCE.joinpath(*name.split(".")[1:])
            file = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
        elif file.suffix == ".pyc" and "__pycache__" in file.parts:
            file = Path(source_from_cache(name))
        if file.is_relative_to(SOURCE) and file.is_file():
            files.add(file)
    return files


def test_what_is_opened_is_in_the_digest(tmp_path: Path) -> None:
    """Every stage is run: what is handed to MLflow by its path, templates and late imports show nowhere else."""
    write_data(tmp_path)
    calls = calls_of_every_stage(tmp_path)
    assert set(calls) == set(STAGES)
    (tmp_path / "calls.json").write_text(json.dumps(calls))
    around = {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db", "MOFE_TRACKING_FOLDER": str(tmp_path / "kept")}
    script, target = Path(__file__).with_name("run_stages.py"), tmp_path / "seen.json"
    command = [sys.executable, str(script), str(tmp_path / "calls.json"), str(target)]
    environment = {**os.environ, "PYTHONPATH": str(SOURCE.parent), **around, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    for stage, seen in json.loads(target.read_text()).items():
        opened, known = in_the_package(seen), set(source_files(f"mofe.stages.{stage}"))
        assert SOURCE / "stages" / f"{stage}.py" in opened
        assert opened <= known, f"{stage} runs {sorted(opened - known)}, which its digest does not see"
        # what only a run shows is seen, so that the comparison means something
        if stage in ("evaluate", "compare_runs"):
            assert SOURCE / "report" / "shell.html" in opened
        if stage == "index":
            assert SOURCE / "inference" / "mlflow_model.py" in opened


def test_the_dockerfile_target_with_what_it_builds_upon_and_copies_from() -> None:
    sections = {
        "wheel": "FROM python AS wheel\nRUN w",
        "base": "FROM python AS base\nRUN a",
        "one": "FROM base AS one\nRUN b",
        "two": "FROM one AS two\nCOPY --from=wheel /x /x\nRUN c",
        "other": "FROM base AS other\nRUN d",
    }
    dockerfile = "# x\n" + "\n".join(sections.values()) + "\n"
    assert dockerfile_target(dockerfile, "two") == "\n".join(sections[n] for n in ("wheel", "base", "one", "two"))
    assert dockerfile_target(dockerfile, "other") == "\n".join(sections[n] for n in ("base", "other"))


def test_the_images_of_a_pipeline() -> None:
    images = images_of(stamp(compiled_pipeline("tables.yaml").read_text(), "here:5000/x"))
    assert set(images) == {"data", "partition", "train", "score", "report"}
    assert len(images["train"]) == 3  # extract, texts and finetune: one image, three contents that matter
    digests = [stage_digest(stage, "partition") for stage in ("check_classes", "partition")]
    assert images["partition"] == {f"here:5000/x/mofe-partition:{mofe.__version__}-{digest}" for digest in digests}


def test_an_image_that_runs_no_stage_is_of_the_whole_package_and_its_target() -> None:
    assert package_digest("serve") == package_digest("serve")
    assert package_digest("serve") != package_digest("pipeline")
