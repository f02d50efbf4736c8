"""What the documentation tells people to type is what the programs take."""

import functools
import importlib
import itertools
import json
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
    for names, defaults, _ in rows("reference/kubeflow.md", "parameter"):
        for name, default in zip(names.split("`, `"), defaults.split("`, `"), strict=True):
            written = known[name]["defaultValue"]
            assert default == (written if isinstance(written, str) else json.dumps(written).removesuffix(".0")), name
