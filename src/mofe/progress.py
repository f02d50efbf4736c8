"""Progress of long work: a bar on a terminal, or occasional lines in a pod's log."""

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm


def progress(
    iterable: Iterable[Any] | None = None, *, label: str, total: int | None = None, unit: str = "image"
) -> "tqdm[Any]":
    """Make a tqdm bar over ``iterable``, or a bar that the caller updates; it shows the rate in ``unit``/s."""
    interactive = sys.stderr.isatty()
    return tqdm(
        iterable,
        desc=label,
        total=total,
        unit=f" {unit}s",
        mininterval=0.2 if interactive else 2.0,
        dynamic_ncols=interactive,
        smoothing=0.1,
        leave=True,
    )
