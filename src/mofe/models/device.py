"""Where tensors live and in which precision they are multiplied."""

import ctypes
import os
import shutil
import sysconfig
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import torch

from mofe.errors import MofeError

Precision = Literal["auto", "bf16", "fp32"]

torch.backends.cudnn.allow_tf32 = False  # with it cuDNN convolves float32 in 10 bits
os.environ.setdefault(
    "CUBLAS_WORKSPACE_CONFIG", ":4096:8"
)  # what cuBLAS needs to repeat itself, from its first call on


def device() -> torch.device:
    """The accelerator of this machine, else the CPU; of several accelerators the one that is this process's own."""
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if accelerator is None:
        return torch.device("cpu")
    return torch.device(accelerator.type, int(os.environ.get("LOCAL_RANK", 0)))  # torchrun's


def keep_freed_memory() -> None:
    """Have glibc keep large blocks that are freed from now on, for the next tensor; what it kept so far is given back.

    By itself it gives them back at once, and the kernel then clears every page of every tensor of 32 MB or more: a
    fifth of the time of a forward pass on a CPU. Other C libraries are left as they are. Call it before a loader starts
    its processes, which would hold what was kept as long as they live.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "malloc_trim"):
        most_mapped_blocks, trim_threshold = -4, -1  # M_MMAP_MAX, M_TRIM_THRESHOLD
        library.malloc_trim(0)
        library.mallopt(most_mapped_blocks, 0)
        library.mallopt(trim_threshold, -1)


def can_compile() -> bool:
    """Whether ``torch.compile`` gains here: on a GPU, beside which there is what Triton compiles its launchers with."""
    if device().type != "cuda" or torch.cuda.get_device_capability() < (7, 0) or not find_spec("triton"):
        return False
    header = Path(sysconfig.get_path("include")) / "Python.h"
    return header.is_file() and any(map(shutil.which, ("cc", "gcc", "clang")))


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
