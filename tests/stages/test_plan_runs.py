"""plan_runs: every configuration with every seed, once; all tables of the paper; what cannot be run is refused."""

import pytest

from mofe.errors import MofeError
from mofe.parameters.file import pipeline_parameters
from mofe.report.configurations import CHANGEABLE, TABLES, checked, name_of
from mofe.runners.digests import compiled_pipeline
from mofe.stages.plan_runs import plan_runs

BASE = {
    name: spec["defaultValue"]
    for name, spec in pipeline_parameters(compiled_pipeline("tables.yaml")).items()
    if name in CHANGEABLE
}


def test_rows_of_several_tables_that_ask_for_the_same_are_one_run() -> None:
    runs = plan_runs(["1-3", "4", "7"], [], [0, 1], BASE)
    names = [run["name"] for run in runs]
    assert names == 2 * [
        "epochs=0 num_experts=1", "mixup=none num_experts=1", "the method", "mixup=none", "num_experts=1",
        "num_experts=1 regulariser=none", "mixup=fixed num_experts=1",
    ]  # fmt: skip
    assert [run["seed"] for run in runs] == 7 * [0] + 7 * [1]


def test_further_configurations_and_floats_from_json() -> None:
    (run,) = plan_runs([], [{"name": "w = 0.5", "mixup_scale": 0.5, "num_experts": 4.0}], [3.0], BASE)  # type: ignore[list-item]
    assert run == {
        "name": "mixup_scale=0.5 num_experts=4",
        "seed": 3,
        "parameters": {**BASE, "mixup_scale": 0.5, "num_experts": 4},
        "rows": ["mixup_scale=0.5 num_experts=4"],
    }


def test_a_number_that_yaml_takes_for_text() -> None:
    (run,) = plan_runs([], [{"name": "slow", "learning_rate": "1e-5"}], [0], BASE)
    assert run["parameters"]["learning_rate"] == 1e-5


def test_a_row_that_changes_nothing_is_the_method_and_is_run_once() -> None:
    runs = plan_runs(["1-3", "4", "5", "6", "7"], [{"name": "the default w", "mixup_scale": 0.9}], [0], BASE)
    assert len(runs) == 16
    (method,) = [run for run in runs if run["parameters"] == BASE]
    assert method["rows"] == ["the method", "num_experts=7", "mixup_scale=0.9"]
    base = {**BASE, "num_experts": 5.0}
    (of_five,) = [run for run in plan_runs(["5"], [], [0], base) if run["parameters"] == base]
    assert (of_five["name"], of_five["rows"]) == ("the method", ["num_experts=5"])


@pytest.mark.parametrize(
    ("tables", "configurations", "seeds", "message"),
    [
        (["9"], [], [0], r"no table '9'; there are 1-3, 4"),
        ([], [], [0], "nothing to compare"),
        (["4"], [], [], "at least one"),
        (["4"], [], [1, 1], "each seed once"),
        ([], [{"mixup": "none"}], [0], "entry 1: add a name"),
        ([], [{"name": "x", "mixpu": "none"}], [0], "no parameter 'mixpu'; it may change num_experts"),
        ([], [{"name": "x", "num_experts": 2.5}], [0], "num_experts = 2.5 is not of type int"),
        ([], [{"name": "x", "fold_lambda": 1}], [0], "fold_lambda = 1 is not of type bool"),
    ],
)
def test_what_cannot_be_run_is_refused(tables: list[str], configurations: list, seeds: list, message: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(MofeError, match=message):
        plan_runs(tables, configurations, seeds, BASE)


def test_every_row_of_every_table_can_be_run_and_has_a_name_of_its_own() -> None:
    for table in TABLES.values():
        settings = [checked(row.settings) for row in table.rows]
        assert len({(name_of(s), row.score) for s, row in zip(settings, table.rows, strict=True)}) == len(table.rows)
