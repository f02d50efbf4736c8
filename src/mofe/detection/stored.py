"""Fitted detectors as tensors, the one form in which they are stored."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor


def fields_as_tensors(detector: Any) -> dict[str, Tensor]:
    """The fields of a fitted detector, a dataclass of tensors and numbers; numbers become scalars of float64."""
    state = {}
    for field in fields(detector):
        value = getattr(detector, field.name)
        state[field.name] = torch.as_tensor(value, dtype=torch.float64 if isinstance(value, float) else None)
    return state


def as_fields(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """What :func:`fields_as_tensors` was given, by name: scalars are numbers again."""
    return {name: value if value.ndim else value.item() for name, value in state.items()}
