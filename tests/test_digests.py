"""Editing a file changes the digests of the stages that import it, and of no others."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import mofe
from mofe.digests import dockerfile_target, source_files
from mofe.stages import STAGES

SOURCE = Path(mofe.__file__).parent
COMMAND = """
from mofe.digests import stage_digest
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
        ("detection/scores.py", {"index", "score"}),
        ("detection/metrics.py", {"index", "evaluate"}),
        ("report/page.html", {"evaluate"}),
        ("partitioning/seeds.py", {"partition"}),
        ("training/losses.py", {"finetune"}),
        ("models/backbone.py", {"extract", "finetune", "index", "score"}),
        ("data/images.py", {"prepare", "extract", "finetune", "index", "score"}),
        ("stages/prepare.py", {"prepare"}),
        ("errors.py", set(STAGES)),
        ("storage.py", set(STAGES) - {"plan", "configure"}),
        ("ablations.py", {"plan", "configure", "tabulate"}),
        ("report/comparison.html", {"tabulate"}),
        ("report/shell.html", {"evaluate", "tabulate"}),
        ("cli.py", set()),
        ("local_runner.py", set()),
        ("shipped/constraints.txt", set(STAGES)),
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


def test_what_is_imported_is_in_the_digest() -> None:
    """Lazy packages hide imports from static analysis; every module that a stage loads must be found all the same."""
    for stage in STAGES:
        code = f"import sys, mofe.stages.{stage}; print(*[m for m in sys.modules if m.startswith('mofe')])"
        loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
        known = {file.relative_to(SOURCE) for file in source_files(f"mofe.stages.{stage}")}
        for module in loaded:
            place = Path(*module.split(".")[1:])
            assert place / "__init__.py" in known or place.with_suffix(".py") in known, f"{stage} imports {module}"


def test_the_dockerfile_target_with_what_it_builds_upon() -> None:
    text = "# x\nFROM python AS base\nRUN a\nFROM base AS one\nRUN b\nFROM one AS two\nRUN c\nFROM base AS no\nRUN d\n"
    assert (
        dockerfile_target(text, "two") == "FROM python AS base\nRUN a\nFROM base AS one\nRUN b\nFROM one AS two\nRUN c"
    )
    assert "RUN d" not in dockerfile_target(text, "one")
