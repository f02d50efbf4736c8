"""Checkpoints of a training run: written whole or not at all, the last two kept, plain tensors and JSON."""

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
"""A file with the pipeline run that wrote the model."""


def save_checkpoint(
    folder: UPath, model: nn.Module, optimiser: torch.optim.Optimizer, progress: dict[str, Any]
) -> None:
    """Write ``folder/step-EEEEE-SSSSSSS`` and drop all but the last two.

    Args:
        folder: of this run.
        model: its parameters are saved.
        optimiser: its state is saved.
        progress: JSON values from which the loop goes on; ``epoch`` and ``step``, how many of its steps are done.
    """
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for index, state in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{index}.{name}": torch.as_tensor(value) for name, value in state.items()}
    final = folder / f"step-{progress['epoch']:05d}-{progress['step']:07d}"
    _remove(final)  # one that was damaged
    with writing.staged(str(final)) as place:
        writing.write_bytes(place / STATE, save({k: v.cpu().contiguous() for k, v in tensors.items()}))
        manifest = {**progress, "files": writing.written(place)}
        writing.write_bytes(place / MANIFEST, with_checksum(manifest))
    for old in _steps(folder)[:-KEPT]:
        _remove(old)


def handed_on(folder: UPath) -> None:
    """Note that the training whose checkpoints lie in ``folder`` came to its end, and that its model was written."""
    writing.write_bytes(folder / END, _pipeline_run().encode())


def forget_handed_on(folder: UPath) -> None:
    """Remove the checkpoints of a training whose model was written, unless this very pipeline run wrote it.

    Whoever trains again after that means to: the code has changed, or the stage is to run again. Within one pipeline
    run it is another try, after the model did not reach its place.
    """
    if locations.kind(folder / END):
        run = locations.read_bytes(folder / END, "note of a training's end").decode(errors="replace")
        if not run or run != _pipeline_run():
            _remove(folder)


def load_checkpoint(folder: UPath, model: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, Any] | None:
    """Restore the newest whole checkpoint in ``folder``; its ``progress``, or None where there is none."""
    place, progress = _newest(folder)
    if progress is None:
        return None
    tensors = load(locations.read_bytes(place / STATE, "checkpoint's tensors"))
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


def _newest(folder: UPath) -> tuple[UPath, dict[str, Any] | None]:
    """The newest checkpoint that is whole, and its progress; of two of which one is damaged, the other."""
    for place in reversed(_steps(folder)):
        if locations.kind(place / MANIFEST):
            progress = _undamaged(place)
            if progress is not None:
                return place, progress
            print(f"the checkpoint {place} is damaged: looking for the one before", flush=True)
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
