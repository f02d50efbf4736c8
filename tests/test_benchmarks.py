"""The benchmarks run: at sizes that show nothing else."""

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
NEEDS = {"image_loading": ("datasets", "webdataset")}
NAMES = (
    "knn_scoring", "image_loading", "training_step", "partition", "metrics_and_detectors", "pipeline_overhead", "gpu",
    "gpu_stages",
)  # fmt: skip


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield


def load(name: str) -> ModuleType:
    for package in NEEDS.get(name, ()):
        pytest.importorskip(package)
    return importlib.import_module(name)


@pytest.mark.parametrize("name", NAMES)
def test_it_runs(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    module = load(name)

    def here(function: Any, *arguments: Any) -> tuple[Any, float]:
        return function(*arguments), 0.1

    monkeypatch.setattr(module, "alone", here, raising=False)  # a process of its own takes seconds to import torch
    monkeypatch.setattr(sys, "argv", [name, "--quick", "--out", str(tmp_path)])
    module.main()
    assert "**Targets**" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_every_benchmark_is_made_and_rendered() -> None:
    makefile = (BENCHMARKS.parent / "Makefile").read_text()
    assert f"BENCHMARKS := {' '.join(NAMES)}\n" in makefile
    assert tuple(load("render").NAMES) == NAMES


def test_a_ratio_is_that_of_the_same_round(monkeypatch: pytest.MonkeyPatch) -> None:
    side_by_side = load("side_by_side")
    clock = iter([0.0, 1, 1, 3, 10, 14, 14, 16, 20, 23, 23, 29])  # the machine is twice as slow in the second round
    monkeypatch.setattr(side_by_side.time, "perf_counter", lambda: next(clock))
    seconds = side_by_side.alternately({"ours": lambda: None, "theirs": lambda: None}, rounds=3)
    assert seconds == {"ours": [1, 2, 3], "theirs": [2, 4, 6]}
    assert side_by_side.ratio(seconds["theirs"], seconds["ours"]) == 2


def test_what_is_written_is_what_is_rendered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    side_by_side, render = load("side_by_side"), load("render")
    monkeypatch.setattr(sys, "argv", ["partition", "--out", str(tmp_path)])
    given = side_by_side.options("")
    table = side_by_side.Table("Speeds", ("", "images/s"), [("ours", 123.4), ("theirs", None)])
    side_by_side.write("partition", given, [table], [side_by_side.Target("speed", "≥ 2 ×", "1 ×", False)], seed=3)
    written = json.loads((tmp_path / "partition.json").read_text())
    assert {"machine", "versions", "settings", "tables"} < set(written)
    monkeypatch.setattr(render, "RESULTS", tmp_path)
    monkeypatch.setattr(render, "PAGE", tmp_path / "page.md")
    render.main()
    page = (tmp_path / "page.md").read_text()
    for line in ("| ours | 123 |", "| theirs | not measured |", "| speed | ≥ 2 × | 1 × | does not hold |", "seed 3"):
        assert line in page
