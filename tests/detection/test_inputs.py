"""What every detector asks of its features, and working through them in parts."""

import pytest
import torch

from mofe.detection.inputs import check_features, in_parts
from mofe.errors import MofeError


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_is_named(bad: float) -> None:
    features = torch.zeros(5, 3)
    features[3, 1] = bad
    with pytest.raises(MofeError, match="feature 3 of 5 is not finite"):
        check_features(features)
    features[2, 0] = -bad  # their sum is NaN
    with pytest.raises(MofeError, match="feature 2 of 5"):
        check_features(features)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_finite_features_may_have_a_sum_that_is_not(dtype: torch.dtype) -> None:
    features = torch.full((4, 4), torch.finfo(dtype).max, dtype=dtype)
    assert not features.sum().isfinite()
    assert check_features(features) is features


@pytest.mark.parametrize("count", [0, 1, 1024, 2500])
def test_parts_come_back_in_order(count: int) -> None:
    rows, other = torch.arange(count), torch.arange(count) % 7
    seen = []

    def both(part: torch.Tensor, of_other: torch.Tensor) -> torch.Tensor:
        seen.append(len(part))
        return part * 10 + of_other

    assert torch.equal(in_parts(both, rows, other), rows * 10 + other)
    assert max(seen) <= 1024
