"""extract and score in shards: the same result as from one task each, and what runs again after a change."""

from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import executed

from mofe.errors import MofeError
from mofe.parameters.file import check_parameters, pipeline_parameters
from mofe.runners.local import RunResult

pytestmark = pytest.mark.integration

Run = Callable[..., RunResult]


def scoring(name: str) -> list[str]:
    return [f"plan_shards:{name}", f"score:{name} shard 0", f"score:{name} shard 1", f"merge_scores:{name}"]


EXTRACTING = ["plan_shards", "extract:shard 0", "extract:shard 1", "merge_features"]
SCORING = [*scoring("id-test"), *scoring("near"), *scoring("far")]
BETWEEN = ["texts", "partition", "finetune", "index"]


def test_what_is_joined_is_what_one_task_makes(run: Run, again: Run) -> None:
    whole, result = run(), run("sharded.yaml", shards=2)
    assert executed(result) == sorted(["fingerprint", *EXTRACTING, *BETWEEN, *SCORING, "evaluate"])
    assert result.outputs["metrics"].read_text() == whole.outputs["metrics"].read_text()
    assert executed(run("sharded.yaml", shards=2)) == ["fingerprint"]

    once_more = again("plan_shards", result.run_id)
    assert executed(once_more) == ["plan_shards", "plan_shards:far", "plan_shards:id-test", "plan_shards:near"]
    assert "index" in {e.stage for e in once_more.executions}, "for whose scores the evaluation sets are split"
    assert executed(again("merge_features", result.run_id)) == ["merge_features"]
    again_from_there = ["fingerprint", *BETWEEN, *(e for e in SCORING if "plan_shards" not in e), "evaluate"]
    assert executed(run("sharded.yaml", shards=2)) == sorted(again_from_there)

    Path("far").write_text("far with another image")
    assert executed(run("sharded.yaml", shards=2)) == sorted(
        ["fingerprint", "prepare:far", *scoring("far"), "evaluate"]
    )


def test_one_shard_is_for_the_other_pipeline() -> None:
    known = pipeline_parameters(Path(__file__).parents[2] / "pipelines" / "compiled" / "sharded.yaml")
    given = {"train_data": "a", "test_data": "b", "ood_data": [{"dataset": "c", "uri": "d"}]}
    check_parameters({**given, "shards": 2}, known, "here")
    with pytest.raises(MofeError, match="here: shards = 1 must be at least 2: to run without shards, use the pipeline"):
        check_parameters({**given, "shards": 1}, known, "here")
