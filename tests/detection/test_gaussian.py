"""Mahalanobis distances against pytorch-ood, and against scikit-learn's covariance in float64."""

import numpy as np
import pytest
import torch
from pytorch_ood.detector import RMD
from pytorch_ood.detector import Mahalanobis as TheirMahalanobis
from samples import Sample
from sklearn.covariance import EmpiricalCovariance
from torch import Tensor
from torch.nn.functional import normalize

from mofe.detection.gaussian import SSD, Mahalanobis, RelativeMahalanobis
from mofe.detection.moments import ClassMoments
from mofe.errors import MofeError

ALL = [
    (Mahalanobis, False),
    (Mahalanobis, True),
    (RelativeMahalanobis, False),
    (RelativeMahalanobis, True),
    (SSD, True),
]
GENERATOR = torch.Generator().manual_seed(2)


def fitted(detector: type, train: Tensor, labels: Tensor, normalise: bool):
    return detector.fit(ClassMoments.of([(train, labels)], int(labels.max()) + 1, normalise=normalise))


def distances(centred: Tensor, test: Tensor, means: Tensor) -> np.ndarray:
    """Squared Mahalanobis distances (B, C) one by one, with scikit-learn's precision matrix."""
    precision = EmpiricalCovariance(assume_centered=True).fit(centred.double().numpy()).precision_
    off = (test.double()[:, None] - means.double()[None]).numpy()
    return np.einsum("bcd,de,bce->bc", off, precision, off)


def reference(detector: type, train: Tensor, labels: Tensor, test: Tensor, normalise: bool) -> np.ndarray:
    if normalise:
        train, test = normalize(train.double(), dim=1), normalize(test.double(), dim=1)
    train, overall = train.double(), train.double().mean(0)
    means = torch.stack([train[labels == c].mean(0) for c in range(int(labels.max()) + 1)])
    to_all = distances(train - overall, test, overall[None])
    if detector is SSD:
        return -to_all[:, 0]
    to_classes = distances(train - means[labels], test, means)
    return -(to_classes - (to_all if detector is RelativeMahalanobis else 0)).min(axis=1)


@pytest.mark.parametrize(("detector", "normalise"), ALL)
def test_by_definition(detector: type, normalise: bool, sample: Sample) -> None:
    ours = fitted(detector, sample.train, sample.labels, normalise).score(sample.test)
    expected = reference(detector, sample.train, sample.labels, sample.test, normalise)
    np.testing.assert_allclose(ours, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize(
    ("ours", "theirs", "factor"), [(Mahalanobis, TheirMahalanobis, 2), (RelativeMahalanobis, RMD, 1)]
)
def test_against_pytorch_ood(ours: type, theirs: type, factor: int, normalise: bool, sample: Sample) -> None:
    """Theirs does not divide the scatter by N, and halves the distance of Mahalanobis but not of RMD.

    To the scatter it adds 1e-6 on the diagonal, for which the features here are too wide to matter, except that
    normalised ones are not: those are given to it a thousandfold, which changes no distance. It works in float32.
    """
    scale = 1000 if normalise else 1
    train, test = (scale * normalize(z, dim=1) if normalise else z for z in (sample.train, sample.test))
    reference = theirs(None).fit_features(train, sample.labels).predict_features(test)
    scores = fitted(ours, sample.train, sample.labels, normalise).score(sample.test)
    expected = -factor * len(train) * reference
    torch.testing.assert_close(scores.float(), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize(("detector", "normalise"), ALL)
def test_what_does_not_matter(detector: type, normalise: bool, sample: Sample) -> None:
    """The order of the training images, the unit of all features, and for distances not normalised any affine map."""
    scores = fitted(detector, sample.train, sample.labels, normalise).score(sample.test)
    order = torch.randperm(len(sample.train), generator=GENERATOR)
    same = fitted(detector, 8 * sample.train[order], sample.labels[order], normalise).score(8 * sample.test)
    torch.testing.assert_close(same, scores, rtol=1e-9, atol=1e-9)
    if normalise:
        lengths = torch.rand(len(sample.test), 1, generator=GENERATOR).double() + 0.1
        same = fitted(detector, sample.train, sample.labels, True).score(lengths * sample.test)
    else:
        width = sample.train.shape[1]
        mixing = torch.randn(width, width, generator=GENERATOR).double()
        train, test = (z.double() @ mixing + 5 for z in (sample.train, sample.test))
        same = fitted(detector, train, sample.labels, False).score(test)
    torch.testing.assert_close(same, scores, rtol=1e-7, atol=1e-7)


def awkward(kind: str) -> tuple[Tensor, Tensor]:
    """Training features without a regular covariance."""
    labels = torch.arange(40) % 4
    train = torch.randn(40, 12, generator=torch.Generator().manual_seed(3)).double() + labels[:, None]
    if kind == "constant":
        train[:, 5] = 0.1
    if kind == "repeated":
        train[:, 7] = train[:, 2] - 3 * train[:, 1]
    if kind == "classwise constant":
        train[:, 3] = labels / 3
    if kind == "fewer than dimensions":
        train, labels = train[:10], labels[:10]
    return train, labels


@pytest.mark.parametrize("kind", ["constant", "repeated", "classwise constant", "fewer than dimensions"])
@pytest.mark.parametrize(("detector", "normalise"), ALL)
def test_directions_without_variance_have_no_distance(detector: type, normalise: bool, kind: str) -> None:
    train, labels = awkward(kind)
    test = train + 0.1 * torch.randn(train.shape, generator=GENERATOR).double()
    scores = fitted(detector, train, labels, normalise).score(test)
    np.testing.assert_allclose(scores, reference(detector, train, labels, test, normalise), rtol=1e-6, atol=1e-6)
    assert scores.abs().max() < 1e4


@pytest.mark.parametrize(("detector", "normalise"), ALL)
def test_how_float32_was_rounded_is_no_distance(detector: type, normalise: bool) -> None:
    """A layer norm leaves one direction without variance but for rounding, which is another's in another batch."""
    norm = torch.nn.LayerNorm(16)
    # a weight near 0, or a sum of bias / weight near 0 on the sphere, would leave a variance that rounding is much of
    torch.nn.init.uniform_(norm.weight, 0.5, 2, generator=GENERATOR)
    torch.nn.init.uniform_(norm.bias, 1, 9, generator=GENERATOR)
    with torch.no_grad():
        train, test = (norm(torch.randn(n, 16, generator=GENERATOR)) for n in (80, 20))
        score = fitted(detector, train, torch.arange(80) % 3, normalise).score
        ulp = torch.finfo(torch.float32).eps
        rounded = test * (1 + ulp * torch.randint(-4, 5, test.shape, generator=GENERATOR))
        np.testing.assert_allclose(score(rounded), score(test), rtol=1e-4, atol=1e-4)


def test_one_class() -> None:
    train, none = torch.randn(50, 4, generator=GENERATOR), torch.zeros(50, dtype=torch.int64)
    near, ssd = fitted(Mahalanobis, train, none, True), fitted(SSD, train, none, True)
    torch.testing.assert_close(near.score(train), ssd.score(train))
    with pytest.raises(MofeError, match="needs two classes"):
        fitted(RelativeMahalanobis, train, none, False)


@pytest.mark.parametrize("detector", [Mahalanobis, RelativeMahalanobis, SSD])
def test_no_variance_at_all(detector: type) -> None:
    labels = torch.arange(6) % 2
    with pytest.raises(MofeError, match="do not vary"):
        fitted(detector, torch.ones(6, 3), labels, True)


def test_what_cannot_be_scored(sample: Sample) -> None:
    near = fitted(Mahalanobis, sample.train, sample.labels, True)
    with pytest.raises(MofeError, match="feature 1 of 2 is not finite"):
        near.score(torch.stack([sample.test[0], sample.test[0] * torch.nan]))
    with pytest.raises(MofeError, match="feature 0 of 1 is zero"):
        near.score(0 * sample.test[:1])
    with pytest.raises(MofeError, match="fitted on"):
        near.score(sample.test[:, 1:])
    with pytest.raises(MofeError, match="unit sphere"):
        fitted(SSD, sample.train, sample.labels, False)
    assert near.score(sample.test[:0]).shape == (0,)


@pytest.mark.parametrize(("spread", "rank"), [(1e-5, 3), (1e-8, 2)])
def test_a_spread_that_float32_loses_beside_the_largest_has_no_distance(spread: float, rank: int) -> None:
    """NumPy's rule for the rank of float32 features: singular values above the largest · D · 2⁻²³ = 3.6e-7."""
    corners = torch.cartesian_prod(*3 * [torch.tensor([-1.0, 1.0])]).double()
    train = corners * torch.tensor([1.0, 1e-4, spread])
    labels = torch.zeros(8).long()
    assert np.linalg.matrix_rank(train.numpy(), tol=train.numpy().std(axis=0).max() * 8**0.5 * 3 * 2.0**-23) == rank
    score = fitted(Mahalanobis, train, labels, False).score
    aside = score(torch.tensor([[0.0, 0.0, 2 * spread]])).item()
    assert aside == pytest.approx(-4 if rank == 3 else 0, abs=1e-9)
    assert score(torch.tensor([[0.0, 3e-4, 0.0]])).item() == pytest.approx(-9)


def after_a_layer_norm(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Features (N, 192) after a layer norm with weights, without rounding, in ten classes; and their classes."""
    generator = torch.Generator().manual_seed(11)
    norm = torch.nn.LayerNorm(192).double()
    torch.nn.init.uniform_(norm.weight, 0.5, 2, generator=generator)
    torch.nn.init.uniform_(norm.bias, -1, 1, generator=generator)
    norm.bias.data -= norm.weight.data * (norm.bias / norm.weight).mean().data  # also on the sphere none varies there
    mixing = torch.randn(192, 192, generator=generator).double() * torch.arange(1, 193) ** -0.4
    means = 3 * torch.randn(10, 192, generator=generator).double()
    own = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 10
    with torch.no_grad():
        return norm((means[labels] + torch.randn(count, 192, generator=own).double()) @ mixing.T), labels


@pytest.mark.parametrize(("detector", "normalise"), ALL)
def test_how_float16_was_rounded_is_no_distance(detector: type, normalise: bool) -> None:
    """Stored in float16, features have the distances that they have in float64 without rounding.

    There scikit-learn sees that a layer norm leaves one direction without variance; in float16 it varies by rounding.
    """
    (train, labels), (test, _) = after_a_layer_norm(800, 1), after_a_layer_norm(100, 2)
    expected = reference(detector, train, labels, test, normalise)
    detector = fitted(detector, train.half(), labels, normalise)
    assert detector.whitening_DR.shape == (192, 191)
    scores = detector.score(test.half()).numpy()
    assert np.sqrt(np.mean((scores - expected) ** 2)) < 0.02 * expected.std()
    moved = test + 1e-6 * torch.randn(test.shape, generator=GENERATOR)
    assert np.abs(detector.score(moved.half()).numpy() - scores).max() < 0.01 * expected.std()


@pytest.mark.parametrize(("steps", "rank"), [(1, 1), (2, 2)])
@pytest.mark.parametrize(("dtype", "step"), [(torch.float16, 2.0**-7), (torch.bfloat16, 2.0**-4)])
def test_a_direction_counts_if_it_varies_by_more_than_a_step(
    dtype: torch.dtype, step: float, steps: int, rank: int
) -> None:
    """Between 8 and 16 the numbers of float16 are 2⁻⁷ apart, those of bfloat16 2⁻⁴; the spread is √½ of ``steps``."""
    wide = torch.tensor([-300.0, -300, -300, -300, 300, 300, 300, 300])
    narrow = 12 + step * steps * torch.tensor([-1.0, 1, 0, 0, -1, 1, 0, 0])
    train = torch.stack([wide, narrow], dim=1).to(dtype)
    assert fitted(Mahalanobis, train, torch.zeros(8).long(), False).whitening_DR.shape == (2, rank)
    exact = fitted(Mahalanobis, train.double(), torch.zeros(8).long(), False)
    assert exact.whitening_DR.shape == (2, 2)
