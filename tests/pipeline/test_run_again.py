"""One stage of an earlier run again, on this machine: the real graphs and runner, with stand-ins for stages."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import executed

from mofe.cli.run import run as command_line
from mofe.errors import MofeError
from mofe.runners import digests
from mofe.runners.local import RunResult

pytestmark = pytest.mark.integration

Run = Callable[..., RunResult]
SCORES = ["score:far", "score:id-test", "score:near"]


@pytest.mark.parametrize(
    ("stage", "runs"),
    [
        ("fingerprint", ["fingerprint"]),
        ("prepare", ["prepare", "prepare:far", "prepare:id-test", "prepare:near"]),
        ("extract", ["extract"]),
        ("finetune", ["finetune"]),
        ("score", SCORES),
        ("evaluate", ["evaluate"]),
    ],
)
def test_the_stage_runs_what_comes_before_is_cached_what_comes_after_is_not_there(
    run: Run, again: Run, stage: str, runs: list[str]
) -> None:
    everything = [(e.stage, e.label) for e in run().executions]
    result = again(stage, run().run_id)
    assert executed(result) == runs
    seen = [(e.stage, e.label) for e in result.executions]
    assert set(seen) <= set(everything), "and nothing twice"
    assert len(set(seen)) == len(seen)
    after = {"finetune": {"index", "score", "evaluate"}, "evaluate": set(), "fingerprint": {"prepare", "extract"}}
    assert not after.get(stage, {"evaluate"}) & {stage for stage, _ in seen}


def test_the_next_run_goes_on_from_the_new_result(run: Run, again: Run) -> None:
    first = run()
    redone = again("index", first.run_id)
    made = next(e.outputs["detector"] for e in redone.executions if e.stage == "index")
    assert redone.outputs["detector"] == Path(made)
    assert made != str(first.outputs["detector"])
    following = run()
    assert following.outputs["detector"] == Path(made)
    assert executed(following) == sorted(["fingerprint", *SCORES, "evaluate"])


def test_data_that_has_changed_since_is_not_looked_at(run: Run, again: Run) -> None:
    first = run()
    Path("train").write_text("another image")
    assert executed(run()) != ["fingerprint"]
    assert executed(again("partition", first.run_id)) == ["partition"]


def test_a_run_that_failed_can_be_gone_on_from(run: Run, again: Run, tmp_path: Path) -> None:
    Path("near").write_text("broken")
    with pytest.raises(MofeError, match="near is broken"):
        run()
    (failed,) = (json.loads(f.read_text()) for f in tmp_path.glob("work/logs/*/run.json"))
    assert "near is broken" in failed["failure"]
    with pytest.raises(
        MofeError, match=r"prepare \((near|far)\) of run .* is not in the cache, and extract needs it.*mofe run -f"
    ):
        again("extract", failed["run"])


def test_parameters_may_change_below_and_not_above(run: Run, again: Run) -> None:
    first = run()
    assert executed(again("index", first.run_id, knn_k=9)) == ["index"]
    with pytest.raises(MofeError, match=r"stage check_classes of run .* is not in the cache, and index needs it"):
        again("index", first.run_id, num_experts=3)
    with pytest.raises(MofeError, match=r"stage fingerprint of run .* is not in the cache, and index needs it"):
        again("index", first.run_id, train_data="test")


def test_a_lost_output_is_said(run: Run, again: Run) -> None:
    first = run()
    next(Path(e.outputs["features"]) for e in first.executions if e.stage == "extract").unlink()
    with pytest.raises(
        MofeError, match=r"stage extract of run .* is not in the cache, and finetune needs it: its outputs"
    ):
        again("finetune", first.run_id)


def test_the_stage_runs_its_present_code_and_what_comes_before_ran_its_own(
    run: Run, again: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run()
    monkeypatch.setattr(digests, "stage_digest", lambda stage, target: "0123456789ab")  # all code was edited
    assert executed(again("index", first.run_id)) == ["index"]
    everything = run()
    assert executed(everything) == executed(first), "under its new digest nothing is cached"


def test_again_of_again(run: Run, again: Run, tmp_path: Path) -> None:
    second = again("index", run().run_id)
    record = json.loads((tmp_path / "work/logs" / second.run_id / "run.json").read_text())
    assert record["earlier_run"]
    assert executed(again("partition", second.run_id)) == ["partition"]


def test_in_a_comparison_all_its_executions_run_again(run: Run, again: Run) -> None:
    of_two = {"tables": [], "configurations": [{"name": "a"}, {"name": "b", "num_experts": 2}], "seeds": [0]}
    first = run("tables.yaml", **of_two)
    result = again("finetune", first.run_id)
    assert executed(result) == ["finetune", "finetune"]
    assert {e.stage for e in result.executions if e.cached} >= {"fingerprint", "plan_runs", "unpack_run", "partition"}
    assert "index" not in {e.stage for e in result.executions}


def test_from_the_command_line(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = run()
    (tmp_path / "runs").mkdir()
    (tmp_path / "work").rename(tmp_path / "runs" / "digits")  # where the command looks for runs
    (tmp_path / "work").symlink_to(tmp_path / "runs" / "digits")  # where the cache believes it is
    command_line(only="index", from_run=first.run_id, settings=("knn_k=9",))
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith(f"detector: {tmp_path}/runs/digits/artifacts/")
    assert "'knn_k': 9" in Path(last.removeprefix("detector: ")).read_text()
    with pytest.raises(MofeError, match=f"run {first.run_id}: .* did you mean knn_k"):
        command_line(only="index", from_run=first.run_id, settings=("knn=9",))


def test_what_is_not_there_is_named(run: Run, again: Run) -> None:
    first = run()
    with pytest.raises(MofeError, match=f"no record of a run 'x' in .*; runs there: {first.run_id}"):
        again("index", "x")
    with pytest.raises(MofeError, match=r"the pipeline has no stage 'plan_runs'; it has .*finetune"):
        again("plan_runs", first.run_id)
