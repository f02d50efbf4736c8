"""What every detector asks of its features, and working through them in parts."""

import pytest
import torch

from mofe.detection.inputs import check_features, check_head, check_labels, in_parts, unit, wide
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


def test_rows_that_do_not_belong_together_are_an_error() -> None:
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        in_parts(lambda one, _: one, torch.zeros(2000), torch.zeros(1000))


@pytest.mark.parametrize(
    ("weight", "bias", "message"),
    [
        (torch.zeros(3), torch.zeros(3), "needs a row of weights and a bias"),
        (torch.zeros(3, 4), torch.zeros(2), "needs a row of weights and a bias"),
        (torch.zeros(3, 5), torch.zeros(3), "the head reads 5 dimensions, the features have 4"),
        (torch.full((3, 4), torch.inf), torch.zeros(3), "is not finite"),
        (torch.zeros(3, 4), torch.tensor([0, torch.nan, 0]), "is not finite"),
    ],
)
def test_what_is_no_head(weight: torch.Tensor, bias: torch.Tensor, message: str) -> None:
    with pytest.raises(MofeError, match=message):
        check_head(weight, bias, 4)


def test_a_head_comes_back_as_it_can_be_stored() -> None:
    weight, bias = torch.arange(12.0).view(4, 3).T, torch.arange(6.0)[::2]
    stored = check_head(weight, bias, 4)
    assert all(
        ours.is_contiguous() and torch.equal(ours, given) for ours, given in zip(stored, (weight, bias), strict=True)
    )


def test_the_first_zero_row_is_named() -> None:
    features = torch.ones(4, 3)
    features[[1, 3]] = 0
    with pytest.raises(MofeError, match="feature 1 of 4 is zero"):
        unit(features)


@pytest.mark.parametrize(("dtype", "wider"), [(torch.bfloat16, torch.float32), (torch.float64, torch.float64)])
def test_only_half_precision_is_widened(dtype: torch.dtype, wider: torch.dtype) -> None:
    assert wide(torch.ones(2, 2, dtype=dtype)).dtype == wider


def test_labels_of_another_shape_or_class_are_named() -> None:
    with pytest.raises(MofeError, match=r"3 features need 3 labels, not labels of shape \(3, 1\)"):
        check_labels(torch.zeros(3, 1), 3, 2)
    with pytest.raises(MofeError, match="label 2 at row 1 is not one of 2 classes"):
        check_labels(torch.tensor([0, 2, 5]), 3, 2)
    assert check_labels(torch.tensor([0, 1], dtype=torch.int16), 2, 2).dtype == torch.int64
