"""The batch: what its shards are given, and what runs again after a change or a failure."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import executed

from mofe.errors import MofeError
from mofe.runners.local import RunResult

pytestmark = pytest.mark.integration

ASKED = {"threshold": "tpr=0.9", "score": "msp", "neighbours": 2, "batch_size": 7}


def test_each_shard_is_asked_once_and_all_are_collected(run: Callable[..., RunResult]) -> None:
    result = run("detect.yaml", shards=3, **ASKED)
    expected = [{"shard": shard, "digest": "new more detector", "detector": "detector", **ASKED} for shard in range(3)]
    assert json.loads(result.outputs["predictions"].read_text()) == expected
    assert json.loads(result.outputs["counts"].read_text()) == expected
    shards = [f"predict:shard {shard}" for shard in range(3)]
    assert executed(result) == sorted(["fingerprint_batch", "list_files", *shards, "merge_predictions"])
    assert executed(run("detect.yaml", shards=3, **ASKED)) == ["fingerprint_batch"]


def test_changed_images_or_a_changed_detector_are_noticed(run: Callable[..., RunResult]) -> None:
    run("detect.yaml", shards=2)
    Path("detector").write_text("another")
    everything = ["fingerprint_batch", "list_files", "merge_predictions", "predict:shard 0", "predict:shard 1"]
    assert executed(run("detect.yaml", shards=2)) == everything
    Path("more").write_text("other images")
    result = run("detect.yaml", shards=2)
    assert executed(result) == everything
    parts = json.loads(result.outputs["predictions"].read_text())
    assert {part["digest"] for part in parts} == {"new other images another"}


def test_after_a_failure_only_what_is_missing_runs(run: Callable[..., RunResult]) -> None:
    Path("broken").touch()
    with pytest.raises(MofeError, match=r"predict \(shard 1\) failed .*shard 1 is broken"):
        run("detect.yaml", shards=2)
    Path("broken").unlink()
    assert executed(run("detect.yaml", shards=2)) == ["fingerprint_batch", "merge_predictions", "predict:shard 1"]
