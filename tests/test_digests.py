"""Editing a file changes the digests of the stages that import it, and of no others."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import mofe
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

SOURCE = Path(mofe.__file__).parent
COMMAND = """
from mofe.runners.digests import stage_digest
from mofe.stages import STAGES
for stage in STAGES:
    print(stage, stage_digest(stage, "base"))
"""


def digests(tree: Path) -> dict[str, str]:
    """Of every stage, by a copy of the package."""
    command = [sys.executable, "-c", COMMAND]
    done = subprocess.run(
        command, capture_output=True, text=True, env={"PYTHONPATH": str(tree), "PATH": ""}, check=True
    )
    return dict(line.split() for line in done.stdout.splitlines())


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("tree")
    shutil.copytree(SOURCE, target / "mofe", ignore=shutil.ignore_patterns("__pycache__"))
    return target


@pytest.fixture(scope="module")
def unedited(tree: Path) -> dict[str, str]:
    return digests(tree)


@pytest.mark.parametrize(
    ("file", "stages"),
    [
        ("artifacts/metrics.py", {"evaluate", "compare_runs"}),
        ("artifacts/detector.py", {"index", "score", "predict"}),
        ("detection/scores.py", {"texts", "index", "score", "predict"}),
        ("detection/metrics.py", {"index", "evaluate", "predict"}),
        ("report/page.html", {"evaluate"}),
        ("partitioning/seeds.py", {"partition"}),
        ("partitioning/wordnet.py", {"texts", "partition"}),
        ("models/text_model.py", {"texts"}),
        ("detection/texts.py", {"texts", "index", "score", "predict"}),
        ("detection/text_space.py", {"index", "score", "predict"}),
        ("training/losses.py", {"finetune"}),
        ("models/backbone.py", {"extract", "texts", "finetune", "index", "score", "predict"}),
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
        ("configurations.py", {"plan_runs", "unpack_run", "compare_runs"}),
        ("artifacts/recipe.py", {"plan_runs", "unpack_run", "finetune", "compare_runs"}),
        ("report/tables.html", {"compare_runs"}),
        ("report/shell.html", {"evaluate", "compare_runs"}),
        ("cli/main.py", set()),
        ("inference/server.py", set()),
        ("runners/local.py", set()),
        ("runners/console.py", set()),
        ("docker/constraints.txt", set(STAGES)),
    ],
)
def test_an_edit_reaches_the_stages_that_import_the_file(
    tree: Path, unedited: dict[str, str], file: str, stages: set[str]
) -> None:
    path = tree / "mofe" / file
    content = path.read_text()
    path.write_text(content + "\n# edited\n")
    after = digests(tree)
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
    digest = stage_digest("partition", "partition")
    assert images["partition"] == {f"here:5000/x/mofe-partition:{mofe.__version__}-{digest}"}


def test_an_image_that_runs_no_stage_is_of_the_whole_package_and_its_target() -> None:
    assert package_digest("serve") == package_digest("serve")
    assert package_digest("serve") != package_digest("pipeline")
