"""A parameter of training is defined once: two are added to a copy by the steps of CONTRIBUTING, and are everywhere."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
STEPS = [
    (
        "src/mofe/artifacts/recipe.py",
        "    seed: int = parameter(",
        '    sharpness: float = parameter(0.25, "sharpness of nothing.", between(0, 2))\n'
        '    roundness: int = parameter(3, "roundness of nothing.", at_least(1), changeable=True)\n',
    ),
    ("components/finetune.py", "    seed: int,\n", "    sharpness: float,\n    roundness: int,\n"),
    ("components/plan_runs.py", "    knn_k: int,\n", "    roundness: int,\n"),
    ("components/unpack_run.py", '        ("knn_k", int),\n', '        ("roundness", int),\n'),
]
"""File, the line before which lines are inserted, the lines."""
LOOK = """
import contextlib, inspect, io, json, sys
from types import SimpleNamespace
from kfp import compiler
from components.finetune import finetune as component
from mofe.artifacts.recipe import Recipe
from mofe.cli.stage import stage
from mofe.errors import MofeError
from mofe.parameters.file import check_parameters, pipeline_parameters
from mofe.stages.plan_runs import plan_runs
from pipelines import mofe, reference, sharded, tables

for module in (mofe, sharded, tables):
    name = module.__name__.removeprefix("pipelines.")
    compiler.Compiler().compile(getattr(module, name), str(module.COMPILED))
known = {module: pipeline_parameters(module.COMPILED) for module in (mofe, sharded, tables)}
seen = {"page": reference.page(), "parameters": [k for k in known.values()], "refused": [], "help": io.StringIO()}

data = {"train_data": "a", "test_data": "b", "ood_data": [{"dataset": "c", "uri": "d"}]}
for module, bad in (
    (mofe, {"sharpness": 2.5}), (sharded, {"roundness": 0}), (tables, {"sharpness": -1}),
    (tables, {"configurations": [{"name": "flat", "roundness": 0}]}),
):
    try:
        check_parameters({**data, **bad}, known[module], "p.yaml")
    except MofeError as error:
        seen["refused"].append(str(error))

with contextlib.redirect_stdout(seen["help"]), contextlib.suppress(SystemExit):
    stage(["finetune", "--help"])
seen["help"] = " ".join(seen["help"].getvalue().replace("│", " ").split())

class Made(Exception):
    pass

def made(recipe):
    raise Made({"sharpness": recipe.sharpness, "roundness": recipe.roundness})

Recipe.__post_init__ = made
defaults = {name: spec.get("defaultValue") for name, spec in known[mofe].items()}
taken = inspect.signature(component.python_func).parameters
given = {name: defaults.get(name, SimpleNamespace(path=name)) for name in taken}
try:
    component.python_func(**{**given, "sharpness": 1.5, "roundness": 7})
except Made as recipe:
    seen["recipe"] = recipe.args[0]
seen["run"] = plan_runs([], [{"name": "round", "roundness": 9.0}], [0], {"roundness": 3})[0]
print(json.dumps(seen))
"""


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkout after steps 1 and 2."""
    copy = tmp_path_factory.mktemp("checkout")
    for folder in ("src", "components", "pipelines", "docker"):
        shutil.copytree(ROOT / folder, copy / folder, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for file, before, lines in STEPS:
        text = (copy / file).read_text()
        assert text.count(before) == 1, file
        (copy / file).write_text(text.replace(before, lines + before))
    return copy


@pytest.fixture(scope="module")
def seen(copy: Path) -> dict[str, Any]:
    """What a copy with the two parameters compiles to, prints, refuses and trains with."""
    environment = {**os.environ, "PYTHONPATH": f"{copy / 'src'}:{copy}", "COLUMNS": "120"}
    command = [sys.executable, "-c", LOOK]
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_the_pipelines_take_it(seen: dict[str, Any]) -> None:
    for parameters in seen["parameters"]:
        assert parameters["sharpness"] == {
            "parameterType": "NUMBER_DOUBLE", "defaultValue": 0.25, "isOptional": True,
            "description": "sharpness of nothing.",
        }  # fmt: skip
        assert parameters["roundness"]["defaultValue"] == 3


def test_it_is_on_the_page_of_parameters_and_in_help(seen: dict[str, Any]) -> None:
    assert seen["page"].count("| `sharpness` | number | `0.25` | sharpness of nothing. |") == 1
    assert seen["page"].count("| `roundness` | whole number | `3` | roundness of nothing. |") == 1
    assert "--sharpness FLOAT sharpness of nothing. (default: 0.25)" in seen["help"]
    assert "--roundness INT roundness of nothing. (default: 3)" in seen["help"]


def test_it_is_refused_outside_its_range(seen: dict[str, Any]) -> None:
    assert seen["refused"] == [
        "p.yaml: sharpness = 2.5 must lie between 0 and 2",
        "p.yaml: roundness = 0 must be at least 1",
        "p.yaml: sharpness = -1.0 must lie between 0 and 2",
        "p.yaml: roundness = 0 must be at least 1",
    ]


def test_the_component_hands_it_to_the_recipe(seen: dict[str, Any]) -> None:
    assert seen["recipe"] == {"sharpness": 1.5, "roundness": 7}


def test_a_configuration_changes_it(copy: Path, seen: dict[str, Any]) -> None:
    assert (seen["run"]["name"], seen["run"]["parameters"]) == ("roundness=9", {"roundness": 9})
    compiled = (copy / "pipelines" / "compiled" / "tables.yaml").read_text()
    from_the_run = r"(\w+):\n\s+taskOutputParameter:\n\s+outputParameterKey: \1\n\s+producerTask: unpack-run\n"
    assert {"roundness", "mixup_scale"} <= set(re.findall(from_the_run, compiled))
    assert "sharpness" not in re.findall(from_the_run, compiled)


def spelled(name: str) -> Counter[str]:
    """How often each file of the code defines a parameter or hands it on by name; ``recipe.NAME`` only uses it."""
    entry = re.compile(rf"(?m)^\s*{name}(: .*)?$")
    found: Counter[str] = Counter()
    files = (file for folder in ("src", "components", "pipelines") for file in (ROOT / folder).rglob("*.py"))
    for file in (file for file in files if name in file.read_text()):
        for node in ast.walk(ast.parse(file.read_text())):
            named = getattr(node, "arg", None) or getattr(node, "id", None)
            text = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
            found[str(file.relative_to(ROOT))] += named == name or len(entry.findall(text))
    return +found


@pytest.mark.parametrize(
    ("name", "signatures"),
    [("probe_learning_rate", ["finetune"]), ("mixup_scale", ["finetune", "plan_runs", "unpack_run"])],
)
def test_one_definition_and_the_signatures_that_kfp_reads(name: str, signatures: list[str]) -> None:
    places = ["src/mofe/artifacts/recipe.py", *(f"components/{stage}.py" for stage in signatures)]
    assert spelled(name) == dict.fromkeys(places, 1)


def test_spelling_it_again_would_be_seen() -> None:
    """A parameter of other stages: arguments, descriptions, texts."""
    assert spelled("num_workers")["pipelines/mofe.py"] == 2
    assert spelled("num_workers")["pipelines/graph.py"] > 2
