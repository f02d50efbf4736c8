"""Device of tensors, and precision of matrix products."""

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

torch.backends.cudnn.allow_tf32 = False  # TF32 has a mantissa of only 10 bits
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # makes cuBLAS reproducible


def device() -> torch.device:
    """The accelerator of this machine, else the CPU; of several accelerators the one of this process."""
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if accelerator is None:
        return torch.device("cpu")
    return torch.device(accelerator.type, int(os.environ.get("LOCAL_RANK", 0)))  # torchrun's


def to_device(tensor: torch.Tensor, place: torch.device) -> torch.Tensor:
    """Move a tensor to a device; the host does not wait for a GPU's copy."""
    return tensor.to(place, non_blocking=place.type == "cuda")  # elsewhere the source may be freed before it is read


COMPILED_FROM = 100_000
"""Number of training images in all epochs above which compiling saves time on a GPU."""


def compiling_pays(images: float) -> bool:
    """Whether ``torch.compile`` saves time: on a GPU, if Triton and its C compiler and headers are installed.

    Args:
        images: images to train on. An image for inference counts a tenth, because the loader may be the limit.
    """
    if images < COMPILED_FROM or device().type != "cuda" or torch.cuda.get_device_capability() < (7, 0):
        return False
    header = Path(sysconfig.get_path("include")) / "Python.h"
    return bool(find_spec("triton")) and header.is_file() and any(map(shutil.which, ("cc", "gcc", "clang")))


@contextmanager
def one_thread() -> Iterator[None]:
    """Limit torch to one CPU thread in the block, because threads wait for one another if loaders use all cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def resolve_precision(precision: str, *, training: bool = False) -> Literal["bf16", "fp32"]:
    """The precision, bf16 or fp32, that ``precision`` stands for on this machine's device.

    ``auto`` is bf16 if the hardware multiplies it natively. For training on a CPU it is float32, because the gain is
    small there and the curve would not be reproducible.

    Raises:
        MofeError: ``precision`` is unknown.
    """
    if precision not in ("auto", "bf16", "fp32"):
        raise MofeError(f"precision {precision!r} is not one of auto, bf16, fp32")
    kind = device().type
    native = torch.cuda.is_bf16_supported() if kind == "cuda" else torch.ops.mkldnn._is_mkldnn_bf16_supported()
    wanted = precision == "bf16" or (precision == "auto" and native and not (training and kind == "cpu"))
    return "bf16" if wanted else "fp32"


def autocast(precision: str, *, training: bool = False) -> torch.autocast:
    """The autocast context of ``precision`` on this machine's device; see :func:`resolve_precision`."""
    wanted = resolve_precision(precision, training=training) == "bf16"
    return torch.autocast(device().type, dtype=torch.bfloat16, enabled=wanted)
