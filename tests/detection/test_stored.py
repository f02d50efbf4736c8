"""Fields of a detector become tensors, and numbers are numbers again."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mofe.detection.stored import as_fields, fields_as_tensors


@dataclass
class Fitted:
    weight_CD: Tensor
    share: float
    k: int
    normalise: bool


def test_what_comes_back_is_what_there_was() -> None:
    """0.1 in float32 would be another number."""
    weight = torch.arange(6.0).view(2, 3)
    state = fields_as_tensors(Fitted(weight, 0.1, 16_777_217, True))
    assert {name: value.dtype for name, value in state.items()} == {
        "weight_CD": torch.float32, "share": torch.float64, "k": torch.int64, "normalise": torch.bool,
    }  # fmt: skip
    again = Fitted(**as_fields(state))
    assert torch.equal(again.weight_CD, weight)
    assert (again.share, again.k, again.normalise) == (0.1, 16_777_217, True)
    assert (type(again.share), type(again.k), type(again.normalise)) == (float, int, bool)
