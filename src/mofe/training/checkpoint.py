"""Checkpoints of a training run: written completely or not at all; the last two are kept; plain tensors and JSON."""

import contextlib
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import nn
from upath import UPath

from mofe.errors import MofeError
from mofe.storage import locations, writing
from mofe.storage.checksummed_json import verify, with_checksum

KEPT = 2
STATE, MANIFEST = "state.safetensors", "checkpoint.json"
END = "handed-on"
"""Name of a file that holds the id of the pipeline run that wrote the model."""


def save_checkpoint(
    folder: UPath, model: nn.Module, optimiser: torch.optim.Optimizer, progress: dict[str, Any]
) -> None:
    """Write ``folder/step-EEEEE-SSSSSSS`` and remove all but the last two.

    Args:
        folder: folder of this run's checkpoints.
        model: model whose parameters are saved.
        optimiser: optimiser whose state is saved.
        progress: JSON values that the loop resumes from, with ``epoch`` and ``step``, the number of its finished steps.
    """
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for index, state in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{index}.{name}": torch.as_tensor(value) for name, value in state.items()}
    final = folder / f"step-{progress['epoch']:05d}-{progress['step']:07d}"
    _remove(final)  # it exists if it was damaged
    with writing.staged(str(final)) as place:
        writing.write_bytes(place / STATE, save({k: v.cpu().contiguous() for k, v in tensors.items()}))
        manifest = {**progress, "files": writing.written(place)}
        writing.write_bytes(place / MANIFEST, with_checksum(manifest))
    for old in _steps(folder)[:-KEPT]:
        _remove(old)


def note_model_written(folder: UPath) -> None:
    """Record that the model of the training with checkpoints in ``folder`` was written."""
    writing.write_bytes(folder / END, _pipeline_run().encode())


def remove_if_model_written(folder: UPath) -> None:
    """Remove the checkpoints of a training whose model was written by another pipeline run.

    If another run trains again, then the code has changed or the user wants a new training. In the same run it is a
    retry after the model was lost on its way to the artifact store, so the checkpoints are kept.
    """
    if locations.kind(folder / END):
        run = locations.read_bytes(folder / END, "note of a training's end").decode(errors="replace")
        if not run or run != _pipeline_run():
            _remove(folder)


def load_checkpoint(folder: UPath, model: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, Any] | None:
    """Restore the newest undamaged checkpoint in ``folder``; return its ``progress``, or None if there is none.

    Raises:
        MofeError: the checkpoint belongs to another model.
    """
    place, progress = _newest(folder)
    if progress is None:
        return None
    tensors = load(locations.read_bytes(place / STATE, "checkpoint's tensors"))
    try:
        model.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
    except RuntimeError as error:
        raise MofeError(f"the checkpoint {place} belongs to another model: remove it to start again") from error
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimiser."):
            _, index, name = key.split(".", 2)
            state.setdefault(int(index), {})[name] = value
    optimiser.load_state_dict({**optimiser.state_dict(), "state": state})
    return progress


def _newest(folder: UPath) -> tuple[UPath, dict[str, Any] | None]:
    """The newest undamaged checkpoint and its progress; (folder, None) if there is none."""
    for place in reversed(_steps(folder)):
        if locations.kind(place / MANIFEST):
            progress = _undamaged(place)
            if progress is not None:
                return place, progress
            print(f"the checkpoint {place} is damaged: looking for an earlier one", flush=True)
    return folder, None


def _undamaged(place: UPath) -> dict[str, Any] | None:
    content = locations.read_bytes(place / MANIFEST, "checkpoint")
    try:
        progress, seal = verify(content)
    except ValueError:
        return None
    whole = seal and locations.kind(place / STATE) and locations.sha256(place / STATE) == progress["files"][STATE]
    return dict(progress) if whole else None


def _pipeline_run() -> str:
    return os.environ.get("KFP_RUN_ID", "")


def _remove(folder: UPath) -> None:
    if locations.is_local(folder):
        shutil.rmtree(Path(folder.path), ignore_errors=True)
    else:
        with locations.access(folder, "checkpoint"), contextlib.suppress(FileNotFoundError):
            folder.fs.rm(folder.path, recursive=True)


def _steps(folder: UPath) -> list[UPath]:
    return locations.children(folder, "step-*")
