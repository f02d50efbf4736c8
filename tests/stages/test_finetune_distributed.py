"""Two processes that torchrun started train as one does: the same losses, the same weights, one voice."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mofe.artifacts import History
from mofe.errors import MofeError

RECIPE = {
    "epochs": 3, "probe_epochs": 5, "probe_learning_rate": 0.01, "batch_size": 32, "learning_rate": 1e-3,
    "warmup_epochs": 0.5, "augmentation": "crop-flip", "drop_path": 0.2, "validation_fraction": 0.2, "num_workers": 0,
    "precision": "fp32",
}  # fmt: skip


def torchrun(paths: SimpleNamespace, output: Path, processes: int, **options: Any) -> subprocess.CompletedProcess[str]:
    named = {"images": paths.images, "features": paths.features, "partition": paths.partition,
             "model": str(output / "model"), "history": str(output / "history"), **RECIPE, **options}  # fmt: skip
    flags = [text for name, value in named.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run([*command, "-m", "mofe", "stage", "finetune", *flags],
                          capture_output=True, text=True, env=environment, check=False)  # fmt: skip


def losses(folder: Path) -> list[list[float]]:
    epochs = History.read(str(folder / "history")).epochs
    return [[e.route_loss, e.expert_loss, e.validation_accuracy, *e.sigma] for e in epochs]


@pytest.mark.parametrize("micro_batch_size", [16, 8])
def test_two_processes_compute_what_one_does(
    trained: Callable[..., SimpleNamespace], tmp_path: Path, micro_batch_size: int
) -> None:
    """The same global batch; with 8, each process accumulates two micro-batches, of which one is not synchronised."""
    paths = trained("alone", micro_batch_size=micro_batch_size, **RECIPE)
    done = torchrun(paths, tmp_path / "both", 2, micro_batch_size=micro_batch_size)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("epoch 1: loss") == 1, "only the first process talks"
    for one, two in zip(losses(tmp_path / "alone"), losses(tmp_path / "both"), strict=True):
        assert two == pytest.approx(one, abs=1e-4)
    alone, both = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("alone", "both"))
    for name in alone:
        torch.testing.assert_close(both[name], alone[name], atol=1e-4, rtol=1e-3)


def test_checkpoints_are_written_once_and_gone_on_from(
    trained: Callable[..., SimpleNamespace], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KFP_RUN_ID", "run-1")  # another try of the same pipeline run
    paths = trained("alone", micro_batch_size=16, **RECIPE)
    options = {"micro_batch_size": 16, "checkpoints": str(tmp_path / "kept")}
    first = torchrun(paths, tmp_path / "first", 2, **options)
    assert first.returncode == 0, first.stderr[-2000:]
    assert len(list((tmp_path / "kept").glob("*/step-*"))) == 2
    again = torchrun(paths, tmp_path / "again", 2, **options)
    assert "resuming in epoch 4" in again.stdout
    assert losses(tmp_path / "again") == losses(tmp_path / "first")


def test_too_few_images_for_the_processes_is_said(trained: Callable[..., SimpleNamespace], tmp_path: Path) -> None:
    paths = trained("alone", micro_batch_size=16, **{**RECIPE, "epochs": 0})
    done = torchrun(paths, tmp_path / "both", 2, micro_batch_size=64, batch_size=128)
    assert done.returncode != 0
    assert "do not give each of 2 processes a micro-batch of 64" in done.stderr


def test_the_stage_starts_its_processes_itself(trained: Callable[..., SimpleNamespace], tmp_path: Path) -> None:
    trained("alone", micro_batch_size=16, **RECIPE)
    trained("both", micro_batch_size=16, processes=2, **RECIPE)
    for one, two in zip(losses(tmp_path / "alone"), losses(tmp_path / "both"), strict=True):
        assert two == pytest.approx(one, abs=1e-4)
    with pytest.raises(MofeError, match=r"process \d of 2: the loss is not finite in epoch"):
        trained("broken", processes=2, micro_batch_size=16, **{**RECIPE, "learning_rate": 9.0, "epochs": 30,
                "warmup_epochs": 0.0, "clip_norm": 0.0, "regulariser": "l2", "regulariser_weight": 1e30})  # fmt: skip
