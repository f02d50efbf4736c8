"""The comparison of configurations: what it runs, what runs share, and that each run's figures stay its own."""

import json
from collections.abc import Callable

import pytest
from helpers import executed

from mofe.runners.local import RunResult

pytestmark = pytest.mark.integration

CONFIGURATIONS = [{"name": "few", "num_experts": 2, "mixup": "none"}, {"name": "many", "num_experts": 5}]
SHARED = [
    "fingerprint",
    "prepare",
    "prepare:far",
    "prepare:id-test",
    "prepare:near",
    "check_classes",
    "extract",
    "texts",
]


def test_runs_share_data_and_features_and_keep_their_own_figures(run: Callable[..., RunResult]) -> None:
    both = {"tables": [], "configurations": CONFIGURATIONS, "seeds": [0, 1]}
    result = run("tables.yaml", **both)
    counts = {stage: [e.stage for e in result.executions].count(stage) for stage in ("extract", "finetune", "evaluate")}
    assert counts == {"extract": 1, "finetune": 4, "evaluate": 4}
    figures = json.loads(result.outputs["results"].read_text())
    assert [f["name"] for f in figures] == ["few", "many", "few", "many"]
    for figure, seed in zip(figures, (0, 0, 1, 1), strict=True):
        assert f"'seed': {seed}" in figure["model"]
        assert f"'mixup': '{'none' if figure['name'] == 'few' else 'dynamic'}'" in figure["model"]
        assert sorted(json.loads(s)["name"] for s in figure["scores"]) == ["far", "id-test", "near"]

    assert executed(run("tables.yaml", **both)) == ["fingerprint"]


def test_one_more_configuration_runs_alone(run: Callable[..., RunResult]) -> None:
    run("tables.yaml", tables=[], configurations=CONFIGURATIONS, seeds=[0])
    more = [*CONFIGURATIONS, {"name": "none", "num_experts": 1}]
    again = executed(run("tables.yaml", tables=[], configurations=more, seeds=[0]))
    assert [again.count(stage) for stage in ("extract", "finetune", "compare_runs")] == [0, 1, 1]
    assert "unpack_run:none seed 0" in again
