"""Checks of what a caller gives a published function: whatever is wrong is one error, which names the argument.

Arrays and tensors are checked by type, shape and kind of number, which costs nothing; their values are checked by the
functions that read them.
"""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mofe.errors import MofeError, shown


def number(name: str, value: Any, low: float = -math.inf, high: float = math.inf, *, above: bool = False) -> float:
    """A finite number in [low, high], or in (low, high] if ``above``.

    Raises:
        MofeError: the value is something else.
    """
    real = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    try:
        found = float(value) if real else math.nan
    except OverflowError:
        found = math.inf
    if not math.isfinite(found):
        raise MofeError(f"{name} = {shown(value)} must be a finite number")
    if not low <= found <= high or (above and found == low):
        least = f"above {low:g}" if above else f"at least {low:g}"
        limits = f"lie in {'(' if above else '['}{low:g}, {high:g}]" if high < math.inf else f"be {least}"
        raise MofeError(f"{name} = {shown(value)} must {limits}")
    return found


def whole(name: str, value: Any, low: int = 0, high: int | None = None) -> int:
    """A whole number between two limits, both included; 3.0 is one, because JSON makes floats of whole numbers.

    Raises:
        MofeError: the value is something else.
    """
    real = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    fits = real and math.isfinite(value) and value == int(value)
    if not fits:
        raise MofeError(f"{name} = {shown(value)} must be a whole number")
    if value < low or (high is not None and value > high):
        limits = f"be at least {low}" if high is None else f"lie between {low} and {high}"
        raise MofeError(f"{name} = {shown(value)} must {limits}")
    return int(value)


def array(name: str, value: Any, ndim: int | None = None) -> np.ndarray:
    """Numbers as an array, uncopied where they are one already.

    Raises:
        MofeError: the value cannot be an array of real numbers, or has other dimensions.
    """
    try:
        found = np.asarray(value)
        if found.dtype == object and found.size:
            found = np.asarray(value, np.float64)
    except Exception as error:  # an object may convert itself, and raise anything
        raise MofeError(f"{name} must be an array of numbers, not {shown(value)}: {error}") from error
    if found.dtype.kind not in "biuf":
        raise MofeError(f"{name} must be an array of numbers, not {shown(value)} with values of type {found.dtype}")
    if ndim is not None and found.ndim != ndim:
        raise MofeError(f"{name} must have {ndim} dimension{'s' * (ndim != 1)}, not the shape {found.shape}")
    return found


def tensor(name: str, value: Any, ndim: int | None = None, *, floating: bool = True) -> Any:
    """A tensor of torch, of floats or (``floating=False``) of whole numbers, and no other thing.

    Raises:
        MofeError: the value is something else.
    """
    if not (hasattr(value, "is_floating_point") and hasattr(value, "is_complex") and hasattr(value, "detach")):
        raise MofeError(f"{name} must be a tensor, not {shown(value)}")
    kinds = "floats" if floating else "whole numbers"
    if value.is_complex() or value.is_floating_point() is not floating or (not floating and "bool" in str(value.dtype)):
        raise MofeError(f"{name} must be a tensor of {kinds}, not of {str(value.dtype).removeprefix('torch.')}")
    if ndim is not None and value.ndim != ndim:
        raise MofeError(f"{name} must have {ndim} dimension{'s' * (ndim != 1)}, not the shape {tuple(value.shape)}")
    return value


def same_length(**sized: Any) -> None:
    """Refuse arguments whose lengths differ.

    Raises:
        MofeError: names them and their lengths.
    """
    if len({len(value) for value in sized.values()}) > 1:
        lengths = ", ".join(f"{len(value)} {name}" for name, value in sized.items())
        raise MofeError(f"there must be as many {' as '.join(sized)}, not {lengths}")


def one_of(name: str, value: Any, choices: Sequence[str]) -> str:
    """One of some words.

    Raises:
        MofeError: the value is none of them.
    """
    if not isinstance(value, str) or value not in choices:
        raise MofeError(f"{name} {shown(value)} is not one of {', '.join(choices)}")
    return value


def text(name: str, value: Any) -> str:
    """Text.

    Raises:
        MofeError: the value is none.
    """
    if not isinstance(value, str):
        raise MofeError(f"{name} must be text, not {shown(value)}")
    return value


def texts(name: str, value: Any, *, optional: bool = False) -> list[Any]:
    """Several texts, of which some may be None if ``optional``; one text is not taken for a list of its letters.

    Raises:
        MofeError: the value is something else.
    """
    if isinstance(value, str | bytes | Mapping):
        raise MofeError(f"{name} must be a list of texts, not {shown(value)}")
    try:
        found = list(value)
    except Exception as error:  # whatever an object that is no list raises
        raise MofeError(f"{name} must be a list of texts, not {shown(value)}") from error
    for item in found:
        if not isinstance(item, str) and not (optional and item is None):
            raise MofeError(f"{name} must be a list of texts, but holds {shown(item)}")
    return found


def instance(name: str, value: Any, kind: type) -> Any:
    """An object of a class.

    Raises:
        MofeError: the value is something else.
    """
    if not isinstance(value, kind):
        raise MofeError(f"{name} must be a {kind.__name__}, not {shown(value)}")
    return value


def local_folder(name: str, value: Any) -> Path:
    """A path on this machine.

    Raises:
        MofeError: the value is none.
    """
    if not isinstance(value, str | os.PathLike) or "\0" in str(value):
        raise MofeError(f"{name} must be a path, not {shown(value)}")
    return Path(value)
