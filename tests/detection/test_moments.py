"""Moments from chunks against NumPy on everything at once."""

import numpy as np
import pytest
import torch
from torch import Tensor

from mofe.detection.moments import ClassMoments
from mofe.errors import MofeError

GENERATOR = torch.Generator().manual_seed(1)
LABELS = torch.arange(200) % 5
FEATURES = (torch.randn(200, 7, generator=GENERATOR) + 3 * LABELS[:, None]).float()


def expected(features: Tensor, labels: Tensor) -> tuple[np.ndarray, np.ndarray]:
    z, y = features.double().numpy(), labels.numpy()
    means = np.stack([z[y == c].mean(0) for c in range(int(y.max()) + 1)])
    return means, (z - means[y]).T @ (z - means[y])


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("size", [1, 3, 64, 200])
def test_chunks_add_up(size: int, normalise: bool) -> None:
    chunks = zip(FEATURES.split(size), LABELS.split(size), strict=True)
    moments = ClassMoments.of(chunks, 5, normalise=normalise)
    z = FEATURES.double() / FEATURES.double().norm(dim=1, keepdim=True) if normalise else FEATURES.double()
    means, within = expected(z, LABELS)
    np.testing.assert_allclose(moments.mean_CD, means, rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(moments.within_DD, within, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(moments.mean_D, z.mean(0), rtol=1e-13)
    for origin in (z.mean(0), torch.full((7,), 100.0, dtype=torch.float64)):
        np.testing.assert_allclose(moments.scatter_around(origin), (z - origin).T @ (z - origin), rtol=1e-11)
    assert moments.count == 200
    assert moments.count_C.tolist() == [40] * 5


def test_far_from_the_origin_nothing_cancels() -> None:
    far = FEATURES.double() + 1e7
    moments = ClassMoments.of(zip(far.split(30), LABELS.split(30), strict=True), 5)
    np.testing.assert_allclose(moments.within_DD, expected(far - 1e7, LABELS)[1], rtol=1e-6, atol=1e-5)


def test_the_order_of_the_images_does_not_matter() -> None:
    order = torch.randperm(200, generator=GENERATOR)
    one, other = ClassMoments.of([(FEATURES, LABELS)], 5), ClassMoments.of([(FEATURES[order], LABELS[order])], 5)
    torch.testing.assert_close(one.within_DD, other.within_DD, rtol=1e-12, atol=1e-12)


def poisoned(row: int, value: float) -> Tensor:
    features = FEATURES.clone()
    features[row] = value
    return features


@pytest.mark.parametrize(
    ("features", "labels", "normalise", "message"),
    [
        (FEATURES, LABELS % 4, False, "class 4 has no training feature"),
        (FEATURES, LABELS + 1, False, "label 5 at row 4 is not one of 5"),
        (FEATURES, LABELS - 1, False, "label -1 at row 0"),
        (FEATURES, LABELS[:9], False, "200 features need 200 labels"),
        (poisoned(7, np.nan), LABELS, False, "feature 7 of 200 is not finite"),
        (poisoned(8, np.inf), LABELS, False, "feature 8 of 200 is not finite"),
        (poisoned(9, 0), LABELS, True, "feature 9 of 200 is zero"),
        (FEATURES[0], LABELS, False, "are not one row"),
        (FEATURES[:, :0], LABELS, False, "are not one row"),
    ],
)
def test_what_has_no_moments(features: Tensor, labels: Tensor, normalise: bool, message: str) -> None:
    with pytest.raises(MofeError, match=message):
        ClassMoments.of([(features, labels)], 5, normalise=normalise)


def test_no_chunk_and_chunks_of_two_widths() -> None:
    with pytest.raises(MofeError, match="no training features"):
        ClassMoments.of([], 5)
    with pytest.raises(MofeError, match="6 dimensions"):
        ClassMoments.of([(FEATURES, LABELS), (FEATURES[:, :6], LABELS)], 5)


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize(("dtype", "theirs"), [(torch.float16, np.float16), (torch.float32, np.float32)])
def test_steps_are_those_between_stored_numbers(dtype: torch.dtype, theirs: type, normalise: bool) -> None:
    """By NumPy to the next smaller size, on the sphere over the length."""
    stored = FEATURES.to(dtype)
    moments = ClassMoments.of(zip(stored.split(64), LABELS.split(64), strict=True), 5, normalise=normalise)
    length = stored.double().norm(dim=1, keepdim=True).numpy() if normalise else 1
    size = np.abs(stored.numpy().astype(theirs))
    steps = (size.astype(float) - np.nextafter(size, theirs(0)).astype(float)) / length
    np.testing.assert_allclose(moments.step_D, (steps**2).mean(axis=0), rtol=1e-12)
