"""What is generated exists once, and whatever is shipped has it as real files: the wheel, the images, the chart."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

import mofe
from mofe.runners.digests import package_digest, stage_digest
from mofe.stages import STAGES

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[1]
CHART = ROOT / "charts" / "mofe"
COMPILED = sorted((ROOT / "pipelines" / "compiled").glob("*.yaml"))
LINKS = {
    "src/mofe/compiled": "pipelines/compiled",
    "charts/mofe/files": "pipelines/compiled",
    "src/mofe/docker/Dockerfile": "docker/Dockerfile",
    "src/mofe/docker/constraints.txt": "docker/constraints.txt",
}
BUILD = "import sys; from hatchling.build import build_wheel; build_wheel(sys.argv[1])"
"""What pip does with our pyproject.toml, in a process of its own: an environment made by uv has no pip."""
ASK = """
import json
import mofe
from mofe.runners.digests import compiled_pipeline, package_digest, stage_digest
from mofe.stages import STAGES

names = ("mofe.yaml", "sharded.yaml", "tables.yaml", "detect.yaml")
print(json.dumps({
    "place": mofe.__file__,
    "stages": {stage: stage_digest(stage, "base") for stage in STAGES},
    "package": package_digest("serve"),
    "compiled": {name: compiled_pipeline(name).read_text() for name in names},
}))
"""


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What .dockerignore lets through of the repository, with links as links: all that a build of an image sees."""
    folder = tmp_path_factory.mktemp("context")
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        for source in ROOT.glob(line[1:]) if line.startswith("!") else ():
            target = folder / source.relative_to(ROOT)
            if source.is_dir():
                shutil.copytree(source, target, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, target)
    return folder


@pytest.fixture(scope="module")
def wheel(context: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-c", BUILD, str(folder)], cwd=context, check=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.mark.parametrize(("link", "real"), LINKS.items())
def test_the_rest_are_links(link: str, real: str) -> None:
    assert (ROOT / link).is_symlink()
    assert (ROOT / link).resolve() == ROOT / real


def test_the_wheel_holds_real_files(wheel: Path) -> None:
    source = Path(mofe.__file__).parent
    folders = os.walk(source, followlinks=True)
    files = {Path(folder, name) for folder, _, names in folders for name in names if "__pycache__" not in folder}
    content = {f"mofe/{file.relative_to(source)}": file.read_bytes() for file in files}
    assert {f"mofe/compiled/{file.name}" for file in COMPILED} < set(content)
    with zipfile.ZipFile(wheel) as held:
        assert {name: held.read(name) for name in held.namelist() if name.startswith("mofe/")} == content


def test_an_installed_wheel_gives_the_digests_of_the_checkout(wheel: Path, tmp_path: Path) -> None:
    """So that the tags that `mofe compile` writes are those that `make images` builds."""
    zipfile.ZipFile(wheel).extractall(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", ASK], cwd=tmp_path, env={"PYTHONPATH": str(tmp_path), "PATH": ""}, check=True,
        capture_output=True, text=True,
    )  # fmt: skip
    answer = json.loads(done.stdout)
    assert Path(answer["place"]).is_relative_to(tmp_path)
    assert answer["stages"] == {stage: stage_digest(stage, "base") for stage in STAGES}
    assert answer["package"] == package_digest("serve")
    assert answer["compiled"] == {file.name: file.read_text() for file in COMPILED}


def test_the_version_is_the_same_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    chart, citation = (yaml.safe_load(file.read_text()) for file in (CHART / "Chart.yaml", ROOT / "CITATION.cff"))
    versions = {project["version"], chart["version"], chart["appVersion"], citation["version"]}
    assert versions == {mofe.__version__}


@pytest.mark.skipif(shutil.which("helm") is None, reason="helm is not installed")
def test_the_packaged_chart_holds_real_files(tmp_path: Path) -> None:
    subprocess.run(["helm", "package", str(CHART), "--destination", str(tmp_path)], check=True)
    (package,) = tmp_path.glob("*.tgz")
    with tarfile.open(package) as chart:
        members = [member for member in chart if member.name.startswith("mofe/files/")]
        assert all(member.isfile() for member in members)
        held = {Path(member.name).name: chart.extractfile(member).read() for member in members}  # type: ignore[union-attr]
    assert held == {file.name: file.read_bytes() for file in COMPILED}
