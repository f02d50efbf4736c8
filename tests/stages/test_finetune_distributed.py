"""Two processes that torchrun started train as one does: the same losses, the same weights, one voice."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.util import Finalize
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch.distributed.elastic.multiprocessing import SignalException

from mofe.artifacts.model import History
from mofe.errors import MofeError
from mofe.training import distributed
from mofe.training.termination import STATUS

RECIPE = {
    "epochs": 3, "probe_epochs": 5, "probe_learning_rate": 0.01, "batch_size": 32, "learning_rate": 1e-3,
    "warmup_epochs": 0.5, "augmentation": "crop-flip", "drop_path": 0.2, "validation_fraction": 0.2, "num_workers": 0,
    "precision": "fp32",
}  # fmt: skip

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(torch.accelerator.device_count() == 1, reason="two processes need two GPUs, or none"),
]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def stage(paths: SimpleNamespace, output: Path, **options: Any) -> list[str]:
    named = {"images": paths.images, "features": paths.features, "partition": paths.partition,
             "model": str(output / "model"), "history": str(output / "history"), **RECIPE, **options}  # fmt: skip
    flags = [text for name, value in named.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    return ["-m", "mofe", "stage", "finetune", *flags]


def under_torchrun(processes: int) -> list[str]:
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]


def torchrun(paths: SimpleNamespace, output: Path, processes: int, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [*under_torchrun(processes), *stage(paths, output, **options)]
    return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=False)


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


def test_told_to_end_all_stop_after_the_same_step(
    trained: Callable[..., SimpleNamespace],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """SIGTERM to torchrun alone, as from Kubernetes: one checkpoint, a failure, and no trace of it in the end."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as torchrun's processes have it
    options: dict[str, Any] = {**RECIPE, "epochs": 6, "micro_batch_size": 8, "batch_size": 16}
    paths = trained("undisturbed", processes=2, checkpoints=str(tmp_path / "other"), **options)
    assert len(list((tmp_path / "other").glob("*/step-*"))) == 2, "only the first process writes them"

    options["checkpoints"] = str(tmp_path / "kept")
    command = [*under_torchrun(2), *stage(paths, tmp_path / "killed", **{**options, "num_workers": 2})]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=ENVIRONMENT) as run:
        assert run.stdout
        printed = ""
        for line in run.stdout:
            printed += line
            if line.startswith("epoch 2:"):
                run.terminate()
    assert run.returncode > 0, printed[-2000:]
    assert printed.count("stopped by SIGTERM") == 1, printed[-2000:]
    newest = max((tmp_path / "kept").glob("*/step-*"))
    assert json.loads((newest / "checkpoint.json").read_text())["step"], "in the middle of an epoch"

    capfd.readouterr()
    trained("killed", processes=2, **options)
    assert "resuming in epoch" in capfd.readouterr().out
    assert losses(tmp_path / "killed") == losses(tmp_path / "undisturbed")
    one, two = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("undisturbed", "killed"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_another_number_of_processes_goes_on_after_the_same_images(
    trained: Callable[..., SimpleNamespace], tmp_path: Path, told_to_end: Callable[[int], Any]
) -> None:
    """One stops after three steps of 16 images; two, whose micro-batches have 8, begin with the fourth."""
    options: dict[str, Any] = {**RECIPE, "epochs": 1, "batch_size": 16, "micro_batch_size": 16}
    alone = trained("alone", **options)
    with told_to_end(3):
        trained("both", checkpoints=str(tmp_path / "kept"), **options)
    done = torchrun(alone, tmp_path / "both", 2, checkpoints=tmp_path / "kept", **options)
    assert "resuming in epoch 1 after step 3" in done.stdout, done.stderr[-2000:]
    # Mixup and negatives are drawn in each micro-batch, so they are others
    assert losses(tmp_path / "both")[1][:2] == pytest.approx(losses(tmp_path / "alone")[1][:2], rel=0.02)


def test_the_parent_of_the_processes_ends_as_one_that_was_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    def told(*_: object) -> None:
        raise SignalException("told to end", signal.SIGTERM)

    monkeypatch.setattr(distributed, "elastic_launch", lambda *_: told)
    with pytest.raises(SystemExit) as end:
        distributed.launch(told, {}, 2)
    assert end.value.code == STATUS


def _fails(first: int) -> None:
    """All wait for each other, but one fails; and its peers end before it does."""
    with distributed.process_group():
        if distributed.rank() == first:
            Finalize(None, time.sleep, (3,), exitpriority=0)
            dist.destroy_process_group()
            raise MofeError("the cause")
        try:
            distributed.wait_for_all()
        finally:
            time.sleep(1)  # by when the other has written down why it failed


@pytest.mark.parametrize("first", [0, 1])
def test_the_process_that_failed_first_is_named(first: int) -> None:
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(MofeError, match=f"process {first} of 2: the cause"):
        distributed.launch(_fails, {"first": first}, 2)
    assert signal.getsignal(signal.SIGTERM) is handler


def test_too_few_images_for_the_processes_is_said(trained: Callable[..., SimpleNamespace], tmp_path: Path) -> None:
    paths = trained("alone", micro_batch_size=16, **{**RECIPE, "epochs": 0})
    done = torchrun(paths, tmp_path / "both", 2, micro_batch_size=64, batch_size=128)
    assert done.returncode != 0
    assert "do not give each of 2 processes a micro-batch of 64" in done.stderr


def test_more_processes_than_gpus_are_refused(
    trained: Callable[..., SimpleNamespace], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 1)
    with pytest.raises(MofeError, match="processes = 2 must be at most 1, the number of GPUs"):
        trained(processes=2)


def test_the_stage_starts_its_processes_itself(trained: Callable[..., SimpleNamespace], tmp_path: Path) -> None:
    trained("alone", micro_batch_size=16, **RECIPE)
    trained("both", micro_batch_size=16, processes=2, **RECIPE)
    for one, two in zip(losses(tmp_path / "alone"), losses(tmp_path / "both"), strict=True):
        assert two == pytest.approx(one, abs=1e-4)
    with pytest.raises(MofeError, match=r"process \d of 2: the loss is not finite in epoch"):
        trained("broken", processes=2, micro_batch_size=16, **{**RECIPE, "learning_rate": 9.0, "epochs": 30,
                "warmup_epochs": 0.0, "clip_norm": 0.0, "regulariser": "l2", "regulariser_weight": 1e30})  # fmt: skip


def test_images_are_hashed_once_a_machine(
    trained: Callable[..., SimpleNamespace], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = next((tmp_path / "train").glob("images-*.parquet"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with pytest.raises(MofeError, match=rf"process 0 of 2: .*{shard.name} is damaged"):
        trained("both", processes=2, micro_batch_size=16, **RECIPE)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "run")
    for here, hashes in (("0", True), ("1", False)):
        monkeypatch.setenv("LOCAL_RANK", here)
        assert distributed.is_first_here() == hashes
