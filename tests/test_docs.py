"""What the documentation tells people to type is what the programs take."""

import functools
import importlib
import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from test_kubeflow_runner import kubeflow as kubeflow

import mofe.cli.main
from docs.tools import reference as from_code
from docs.tools.site import external_loads
from mofe.parameters.file import check_parameters, pipeline_parameters, settings_of
from mofe.runners.digests import compiled_pipeline
from mofe.runners.pipeline_spec import stage_of
from mofe.stages import STAGES
from pipelines import reference

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
OPEN = re.compile(r"…|\b[A-Z]{4,}\b")
"""A command with something to fill in, ``…`` or ``NAME``."""


def commands(program: str) -> Iterator[Any]:
    """Every complete command line of a program: lines of code blocks, and words in backticks that have an option."""
    for page in PAGES:
        text = page.read_text()
        blocks = re.findall(r"(?ms)^```(\w*)\n(.*?)^```$", text)
        lines = [line for language, block in blocks if not language for line in block.replace("\\\n", " ").splitlines()]
        prose = re.sub(r"(?ms)^```.*?^```", "", text)
        lines += [code for code in re.findall(r"`([^`\n]+)`", prose) if " -" in code]
        for line in dict.fromkeys(lines):
            for part in line.split(" && "):
                if part.startswith(f"{program} ") and not OPEN.search(part):
                    words = shlex.split(part, comments=True)
                    yield pytest.param(words, id=f"{page.name}: {' '.join(words)}"[:120])


def test_the_commands_are_found() -> None:
    """So that a change of layout does not leave them unchecked."""
    assert len(list(commands("mofe"))) > 20
    assert len(list(commands("helm"))) >= 4
    assert len(list(commands("kfp"))) >= 2


@pytest.mark.parametrize("words", commands("mofe"))
def test_mofe_takes_it(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The real parser, with functions that only note what they were called with."""
    seen: dict[str, Any] = {}

    def noted(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def note(*given: Any, **named: Any) -> None:
            seen.update(named, function=function.__name__)

        return note

    for name in ("run", "report", "compile", "register", "schedule", "detect", "serve"):
        monkeypatch.setattr(mofe.cli.main, name, noted(getattr(mofe.cli.main, name)))
    monkeypatch.setattr(mofe.cli.main, "check", noted(mofe.cli.main.check))
    for name in ("digits", "wordnet"):
        monkeypatch.setattr(mofe.cli.main.data, name, noted(getattr(mofe.cli.main.data, name)))
    for stage in STAGES:
        module = importlib.import_module(f"mofe.stages.{stage}")
        monkeypatch.setattr(module, stage, noted(getattr(module, stage)))
    monkeypatch.setattr(sys, "argv", words)
    mofe.cli.main.main()
    assert seen, "the command said something instead of doing something"
    if seen["function"] in ("run", "register", "schedule") and seen.get("settings"):
        known = pipeline_parameters(compiled_pipeline(f"{seen.get('pipeline', 'mofe')}.yaml"))
        check_parameters(settings_of(seen["settings"]), known, " ".join(words), complete=False)
    if seen["function"] == "run":
        assert bool(seen["params"]) != bool(seen["only"] and seen["from_run"])
        assert seen["only"] in ("", *STAGES)
        if seen["params"] and seen["params"].parts[0] == "examples":
            assert (ROOT / seen["params"]).is_file()


@pytest.mark.integration
@pytest.mark.skipif(shutil.which("helm") is None, reason="helm is not installed")
@pytest.mark.parametrize("words", commands("helm"))
def test_helm_takes_it(words: list[str]) -> None:
    """``helm template`` takes the options of install and upgrade, and checks values by the chart's schema."""
    kept = [word for word in words[2:] if word != "--install"]
    done = subprocess.run(["helm", "template", *kept], cwd=ROOT, capture_output=True, text=True)
    assert words[1] in ("install", "upgrade")
    assert done.returncode == 0, done.stderr
    sent = dict(value.split("=", 1) for option, value in itertools.pairwise(words) if option == "--set")
    assert f"{sent['registry']}/mofe-" in done.stdout


@pytest.mark.integration
@pytest.mark.parametrize("words", commands("kfp"))
def test_kubeflows_own_client_takes_it(words: list[str], kubeflow: SimpleNamespace, tmp_path: Path) -> None:
    """The real command, with a compiled pipeline, against the server that answers as Kubeflow does."""
    (tmp_path / "pipeline.yaml").write_text(compiled_pipeline("mofe.yaml").read_text())
    kubeflow.states = [{"state": "SUCCEEDED", "display_name": "first", "created_at": "2026-01-31T00:00:00Z"}]
    if "--endpoint" in words:
        words[words.index("--endpoint") + 1] = kubeflow.host
    command = [sys.executable, "-c", "import sys; from kfp.cli.__main__ import main; sys.exit(main())", *words[1:]]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert kubeflow.run["experiment_id"] == "e-1", done.stderr
    sent = kubeflow.run["runtime_config"]["parameters"]
    check_parameters(sent, pipeline_parameters(compiled_pipeline("mofe.yaml")), " ".join(words))


def rows(page: str, first: str) -> list[list[str]]:
    """A table: its rows' cells, from the one whose first header is ``first``."""
    text = (ROOT / "docs" / page).read_text()
    table = re.search(rf"(?m)^\| {first} \|.*\n\|[-|]+\n((?:\|.*\n)+)", text)
    assert table, f"{page} has no table of {first}"
    return [[cell.strip().strip("`") for cell in row.strip("|").split("|")] for row in table.group(1).splitlines()]


def test_what_stages_cost_is_what_was_compiled() -> None:
    def value(amount: str) -> str:
        parameter = re.search(r"pipelinechannel--(\w+)", amount)
        return parameter.group(1) if parameter else amount

    costs: dict[str, list[str]] = {}
    for file in ("sharded.yaml", "tables.yaml", "detect.yaml"):  # the first has all stages of mofe.yaml
        pipeline, platform = yaml.safe_load_all(compiled_pipeline(file).read_text())
        own = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
        for name, executor in pipeline["deploymentSpec"]["executors"].items():
            resources = executor["container"]["resources"]
            days = int(own[name]["activeDeadlineSeconds"]) // (24 * 60 * 60)
            cost = [
                value(resources["resourceCpuRequest"]),
                f"{value(resources['resourceMemoryRequest'])}, {value(resources['resourceMemoryLimit'])}",
                value(resources.get("accelerator", {}).get("resourceCount", "")),
                f"{days} day{'s' if days > 1 else ''}",
            ]
            assert costs.setdefault(stage_of(name), cost) == cost, f"{name} in {file}"
    documented = {
        row[0]: [cell.replace("`", "") for cell in row[1:5]] for row in rows("reference/kubeflow.md", "stage")
    }
    assert documented == costs


def test_which_image_a_stage_runs_in_is_what_was_compiled() -> None:
    images: dict[str, set[str]] = {}
    for file in ("tables.yaml", "sharded.yaml", "detect.yaml"):
        pipeline = next(iter(yaml.safe_load_all(compiled_pipeline(file).read_text())))
        for name, executor in pipeline["deploymentSpec"]["executors"].items():
            target = re.search(r"/mofe-(\w+):", executor["container"]["image"])
            assert target
            images.setdefault(target.group(1), set()).add(stage_of(name))
    documented = {row[0]: set(row[2].split(", ")) for row in rows("reference/kubeflow.md", "image")}
    assert documented.pop("pipeline") and documented.pop("serve"), "which run no stage"
    assert documented == images


def test_the_page_of_parameters_is_what_was_compiled() -> None:
    assert reference.PAGE.read_text() == reference.page(), "stale: run `make compile` and commit"


def test_the_parameters_of_the_pool_have_these_defaults() -> None:
    known = pipeline_parameters(compiled_pipeline("mofe.yaml"))
    for names, defaults, _ in rows("how-to/kubeflow.md", "parameter"):
        for name, default in zip(names.split("`, `"), defaults.split("`, `"), strict=True):
            written = known[name]["defaultValue"]
            assert default == (written if isinstance(written, str) else json.dumps(written).removesuffix(".0")), name


def blocks(page: str) -> Iterator[tuple[str, str]]:
    """Language and content of each code block of a page, in order."""
    yield from re.findall(r"(?ms)^```(\w*)\n(.*?)^```$", (ROOT / "docs" / page).read_text())


def photographs(folder: Path) -> None:
    """The folders that the tutorial asks for, with digits in them, because a test has no photographs."""
    subprocess.run([sys.executable, "-m", "mofe", "data", "digits", "--to", str(folder / "digits")], check=True)
    for part, count in (("train", 24), ("test", 4)):
        for name in ("one", "two", "three"):
            place = folder / "photos" / part / name
            place.mkdir(parents=True)
            for image in sorted((folder / "digits" / part / name).iterdir())[:count]:
                shutil.copy(image, place)
    (folder / "photos/unknown").mkdir()
    for image in sorted((folder / "digits/near-ood/nine").iterdir())[:8]:
        shutil.copy(image, folder / "photos/unknown")
    first = next((folder / "photos/test/one").iterdir())
    first.rename(first.with_name("first.png"))


def test_the_tutorial_works(tmp_path: Path) -> None:
    """Every command of the page runs, in order; with small images and a small backbone, which need no download.

    Of the installation make shows what it would do, since the tests have an environment already.
    """
    photographs(tmp_path)
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "mofe").write_text(f'#!/bin/sh\nexec {sys.executable} -m mofe "$@"\n')
    (programs / "mofe").chmod(0o755)
    path = f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    source = f"{ROOT / 'src'}:{os.environ.get('PYTHONPATH', '')}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": source}
    printed = []

    def run(command: list[str], folder: Path, allowed: tuple[int, ...] = (0,)) -> None:
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode in allowed, f"{command}: {done.stdout}{done.stderr}"
        printed.append(done.stdout)

    for language, block in blocks("tutorial.md"):
        if language == "yaml":
            small = yaml.safe_load((ROOT / "examples/digits.yaml").read_text())
            backbone = {name: small[name] for name in ("backbone", "backbone_args")}
            brief = {
                "weights": str(ROOT / small["weights"]),
                "epochs": 1,
                "warmup_epochs": 0.5,
                "inference_batch_size": 8,
            }
            (tmp_path / "params.yaml").write_text(yaml.safe_dump(yaml.safe_load(block) | backbone | brief))
        elif language == "python":
            run([sys.executable, "-c", block], tmp_path)
        elif not language:
            for line in block.splitlines():
                if line.startswith("make "):
                    run(["make", "--dry-run", *shlex.split(line)[1:]], ROOT)
                elif line.startswith("mofe "):
                    run(["bash", "-c", line], tmp_path, (0, 3) if line.startswith("mofe detect") else (0,))
                else:
                    assert line.startswith(("git clone ", "source .venv/bin/activate")), line
    assert (tmp_path / "runs/params/report.html").is_file()
    assert len((tmp_path / "predictions.csv").read_text().splitlines()) == 1 + 12 + 8
    assert any(re.fullmatch(r"(one|two|three) (True|False)\n", text) for text in printed)


@pytest.mark.parametrize("name", ["cli", "artifacts"])
def test_the_generated_pages_are_what_the_code_says(name: str) -> None:
    page = from_code.FOLDER / f"{name}.md"
    assert page.read_text() == getattr(from_code, f"{name}_page")(), "stale: run `make compile` and commit"


def test_files_that_are_named_exist() -> None:
    """Links of every page to files of the repository; and pages of docs/ that any file names."""
    for page in [*PAGES, ROOT / "SECURITY.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]:
        for address in re.findall(r"\]\(([^)#\s]+)[^)]*\)", re.sub(r"(?ms)^```.*?^```", "", page.read_text())):
            assert "://" in address or (page.parent / address).exists(), f"{page.name}: {address}"
    for folder in ("src", "pipelines", "components", "examples", "benchmarks", "scripts", "charts", "docker", "tests"):
        for file in (ROOT / folder).rglob("*"):
            if file.suffix in (".py", ".yaml", ".md", ".html") and file.is_file():
                for named in re.findall(r"docs/[\w/-]+\.md", file.read_text("utf-8")):
                    assert (ROOT / named).is_file(), f"{file}: {named}"


@pytest.mark.parametrize(
    ("page", "external"),
    [
        ('<script src="https://cdn.example/x.js"></script>', ["https://cdn.example/x.js"]),
        ('<link rel="stylesheet" href="//fonts.example/x.css">', ["//fonts.example/x.css"]),
        ('<p style="background: url(http://x.example/a.png)">', ["http://x.example/a.png"]),
        (
            '<a href="https://x.example">a link</a> <img src="a.png"> <link rel="canonical" href="https://x.example">',
            [],
        ),
    ],
)
def test_the_site_loads_nothing_from_other_hosts(page: str, external: list[str], tmp_path: Path) -> None:
    """What makes ``make docs`` fail."""
    (tmp_path / "index.html").write_text(page)
    assert external_loads(tmp_path) == [f"index.html: {address}" for address in external]
