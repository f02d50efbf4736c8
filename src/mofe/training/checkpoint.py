"""Checkpoints of a training run: written whole or not at all, the last two kept, plain tensors and JSON."""

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import nn
from upath import UPath

from mofe import storage
from mofe.errors import MofeError

KEPT = 2


def save_checkpoint(
    folder: UPath, step: int, model: nn.Module, optimiser: torch.optim.Optimizer, progress: dict[str, Any]
) -> None:
    """Write ``folder/step-NNNNNNNN`` and drop all but the last two.

    Args:
        folder: of this run.
        step: optimiser steps so far.
        model: its parameters are saved.
        optimiser: its state is saved.
        progress: JSON values from which the loop goes on.
    """
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for index, state in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{index}.{name}": torch.as_tensor(value) for name, value in state.items()}
    with storage.staged(str(folder / f"step-{step:08d}")) as place:
        storage.write_bytes(place / "state.safetensors", save({k: v.cpu().contiguous() for k, v in tensors.items()}))
        storage.write_json(place / "checkpoint.json", progress)
    for old in _steps(folder)[:-KEPT]:
        if storage.is_local(old):
            shutil.rmtree(Path(old.path), ignore_errors=True)
        else:
            with storage.access(old, "checkpoint"), contextlib.suppress(FileNotFoundError):
                old.fs.rm(old.path, recursive=True)


def load_checkpoint(folder: UPath, model: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, Any] | None:
    """Restore the newest whole checkpoint in ``folder``; its ``progress``, or None where there is none."""
    whole = [step for step in _steps(folder) if storage.kind(step / "checkpoint.json")]
    if not whole:
        return None
    place = whole[-1]
    progress: dict[str, Any] = json.loads(storage.read_bytes(place / "checkpoint.json", "checkpoint"))
    tensors = load(storage.read_bytes(place / "state.safetensors", "checkpoint's tensors"))
    try:
        model.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
    except RuntimeError as error:
        raise MofeError(f"the checkpoint {place} is of another model; remove it to start afresh") from error
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimiser."):
            _, index, name = key.split(".", 2)
            state.setdefault(int(index), {})[name] = value
    optimiser.load_state_dict({**optimiser.state_dict(), "state": state})
    return progress


def _steps(folder: UPath) -> list[UPath]:
    return storage.children(folder, "step-*")
