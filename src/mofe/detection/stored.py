"""Conversion of fitted detectors to tensors, the only form in which they are stored."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor


def fields_as_tensors(detector: Any) -> dict[str, Tensor]:
    """Convert a fitted detector's fields (a dataclass of tensors or numbers) to tensors; floats become float64."""
    state = {}
    for field in fields(detector):
        value = getattr(detector, field.name)
        state[field.name] = torch.as_tensor(value, dtype=torch.float64 if isinstance(value, float) else None)
    return state


def as_fields(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The fields of the detector that :func:`fields_as_tensors` converted, by name; scalars become numbers again."""
    return {name: value if value.ndim else value.item() for name, value in state.items()}
