"""A disk that is full or read-only: every stage says so with the place, and leaves nothing half-written."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers import TINY
from test_artifacts import run, whole_run

from mofe.errors import MofeError
from mofe.stages.evaluate import evaluate
from mofe.stages.extract import extract
from mofe.stages.finetune import finetune
from mofe.stages.index import index
from mofe.stages.list_files import list_files
from mofe.stages.merge_features import merge_features
from mofe.stages.merge_predictions import merge_predictions
from mofe.stages.merge_scores import merge_scores
from mofe.stages.partition import partition
from mofe.stages.predict import predict
from mofe.stages.prepare import prepare
from mofe.stages.score import score

pytestmark = pytest.mark.integration

__all__ = ["run", "whole_run"]
OF_STAGE: dict[str, Callable[[Path, str], object]] = {
    "prepare": lambda r, out: prepare(str(r / "train/*.parquet"), out, name="a", role="train"),
    "extract": lambda r, out: extract(
        str(r / "train"), out, backbone="vit_tiny_patch16_224", backbone_args=TINY, weights="random", num_workers=0
    ),
    "partition": lambda r, out: partition(str(r / "features"), out, num_experts=2, strategy="kmeans++"),
    "finetune": lambda r, out: finetune(
        *(str(r / name) for name in ("train", "features", "partition")), out, f"{out}-history", epochs=0, num_workers=0
    ),
    "checkpoint": lambda r, out: finetune(
        *(str(r / name) for name in ("train", "features", "partition", "m", "h")), epochs=1, warmup_epochs=0.0,
        num_workers=0, batch_size=16, micro_batch_size=16, checkpoints=out,
    ),
    "index": lambda r, out: index(str(r / "train"), str(r / "features"), str(r / "run/model"), out, num_workers=0),
    "score": lambda r, out: score(str(r / "odd"), str(r / "run/detector"), out, num_workers=0),
    "merge_features": lambda r, out: merge_features([str(r / "part-of-features")], out),
    "merge_scores": lambda r, out: merge_scores([str(r / "part-of-scores")], out),
    "evaluate": lambda r, out: evaluate(
        [str(r / "scores-odd"), str(r / "scores-id-test")], str(r / "partition"), str(r / "run/history"),
        metrics=f"{out}/m", roc=f"{out}/r", report=f"{out}/p",
    ),
    "list_files": lambda r, out: list_files([str(r / "new")], out),
    "predict": lambda r, out: predict(str(r / "files"), str(r / "run/detector"), out, shard=0),
    "merge_predictions": lambda r, out: merge_predictions([str(r / "predictions")], out, f"{out}-counts"),
}  # fmt: skip


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 4 kB, of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    if (
        os.getuid()
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", place], capture_output=True).returncode
    ):
        pytest.skip("a file system cannot be mounted here")
    yield place
    subprocess.run(["umount", place], check=True)


@pytest.mark.parametrize("stage", OF_STAGE)
def test_every_stage(run: Path, disk: Path, stage: str) -> None:
    (disk / "full").write_bytes(bytes(1))  # a page
    with pytest.raises(MofeError, match=rf"{disk}/.*: \[Errno 28\] No space left on device") as refused:
        OF_STAGE[stage](run, str(disk / "out"))
    assert "\n" not in str(refused.value)
    assert not [f for f in disk.rglob("*") if f.is_file() and f.name != "full"], "nothing is left"
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    with pytest.raises(MofeError, match=rf"{disk}/.*: \[Errno 30\] Read-only file system"):
        OF_STAGE[stage](run, str(disk / "out"))
    subprocess.run(["mount", "-o", "remount,rw,size=64m", disk], check=True)
    OF_STAGE[stage](run, str(disk / "out"))
    assert (disk / "out").exists()
