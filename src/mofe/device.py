"""Where tensors live and in which precision they are multiplied."""

import os
import shutil
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import torch

from mofe.errors import MofeError

Precision = Literal["auto", "bf16", "fp32"]

torch.backends.cudnn.allow_tf32 = False  # with it cuDNN convolves float32 in 10 bits
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS does not repeat itself


def device() -> torch.device:
    """The accelerator of this machine, else the CPU; of several accelerators the one that is this process's own."""
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if accelerator is None:
        return torch.device("cpu")
    return torch.device(accelerator.type, int(os.environ.get("LOCAL_RANK", 0)))  # torchrun's


def sent(tensor: torch.Tensor, place: torch.device) -> torch.Tensor:
    """The tensor on a device; the host does not wait for a GPU to take it."""
    return tensor.to(place, non_blocking=place.type == "cuda")  # others may read memory that has been freed by then


COMPILED_FROM = 100_000
"""Images to be trained on, in all epochs, from which the seconds of compiling are won back on a GPU."""


def compiling_pays(images: float) -> bool:
    """Whether ``torch.compile`` gains here: on a GPU, beside which there is what Triton compiles its launchers with.

    Args:
        images: to be trained on; one that is only looked at counts a tenth, for there the loader may be the limit.
    """
    if images < COMPILED_FROM or device().type != "cuda" or torch.cuda.get_device_capability() < (7, 0):
        return False
    header = Path(sysconfig.get_path("include")) / "Python.h"
    return bool(find_spec("triton")) and header.is_file() and any(map(shutil.which, ("cc", "gcc", "clang")))


@contextmanager
def one_thread() -> Iterator[None]:
    """Within it torch uses one thread of the CPU: where loaders keep all cores busy, threads wait for one another."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def autocast(precision: str, *, training: bool = False) -> torch.autocast:
    """The autocast context of ``precision`` on this machine's device.

    ``auto`` is bf16 where the hardware multiplies it natively, but float32 for training on a CPU, where the gain is
    small and the loss of a reproducible curve is not.

    Raises:
        MofeError: an unknown precision.
    """
    if precision not in ("auto", "bf16", "fp32"):
        raise MofeError(f"precision {precision!r} is not one of auto, bf16, fp32")
    kind = device().type
    native = torch.cuda.is_bf16_supported() if kind == "cuda" else torch.ops.mkldnn._is_mkldnn_bf16_supported()
    wanted = precision == "bf16" or (precision == "auto" and native and not (training and kind == "cpu"))
    return torch.autocast(kind, dtype=torch.bfloat16, enabled=wanted)
