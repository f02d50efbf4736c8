"""Dynamic-β Mixup against its distribution and its definition."""

import numpy as np
import pytest
import torch
from scipy import stats

from mofe.errors import MofeError
from mofe.training import DynamicBetaMixup
from mofe.training.mixup import LEAST_SIGMA


@pytest.mark.parametrize("accuracy", [0.0, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("scale", [0.5, 0.9])
def test_lambda_follows_the_folded_beta_distribution(accuracy: float, scale: float) -> None:
    mixup = DynamicBetaMixup(2, scale, np.random.default_rng(5))
    mixup.update([accuracy, 0.5])
    lam = mixup.sample(torch.zeros(20_000, dtype=torch.int64)).numpy()
    sigma = 1 - scale * accuracy

    def distance(sigma: float) -> float:
        """Kolmogorov and Smirnov's; up to 0.999, since nearer to 1 λ̂ is rounded to 1."""
        x = np.linspace(0.5, 0.999, 2000)
        # the fold of a symmetric distribution: P(max(λ, 1 − λ) ≤ x) = F(x) − F(1 − x)
        folded = stats.beta.cdf(x, sigma, sigma) - stats.beta.cdf(1 - x, sigma, sigma)
        return float(np.abs(np.searchsorted(np.sort(lam), x, "right") / len(lam) - folded).max())

    critical = stats.kstwo.isf(1e-3, len(lam))
    assert distance(sigma) < critical
    assert distance(sigma + 0.1) > critical  # the test can fail


def test_unfolded_lambda_follows_the_beta_distribution_itself() -> None:
    mixup = DynamicBetaMixup(1, 0.9, np.random.default_rng(5), fold=False)
    mixup.update([0.5])
    lam = mixup.sample(torch.zeros(20_000, dtype=torch.int64)).double().numpy()
    assert stats.kstest(lam, stats.beta(0.55, 0.55).cdf).pvalue > 1e-3
    assert stats.kstest(np.maximum(lam, 1 - lam), stats.beta(0.55, 0.55).cdf).pvalue < 1e-9  # the test can fail


def test_sigma_is_by_class_and_never_vanishes() -> None:
    mixup = DynamicBetaMixup(3, 1.0)
    assert mixup.sigma_C.tolist() == [1, 1, 1]
    mixup.update([0.0, 0.5, 1.0])
    assert mixup.sigma_C.tolist() == [1.0, 0.5, LEAST_SIGMA]
    lam = mixup.sample(torch.full((1000,), 2))
    assert torch.isfinite(lam).all()
    assert lam.mean() > 0.95


def test_partners_are_of_another_class_and_uniform() -> None:
    labels = torch.tensor([0, 2, 0, 1, 2, 2, 0, 3])
    mixup = DynamicBetaMixup(4, 0.9, np.random.default_rng(1))
    drawn = torch.stack([mixup.partners(labels) for _ in range(4000)])
    assert (labels[drawn] != labels).all()
    counts = torch.bincount(drawn[:, 0], minlength=8)  # image 0 has five possible partners
    assert stats.chisquare(counts[labels != 0].numpy()).pvalue > 1e-3


def test_a_batch_of_one_class_is_left_as_it_is() -> None:
    images = torch.randn(5, 3, 4, 4)
    mixed = DynamicBetaMixup(2, 0.9)(images, torch.ones(5, dtype=torch.int64))
    torch.testing.assert_close(mixed.images, images)
    assert mixed.labels_b.tolist() == [1] * 5


def test_the_blend_is_the_convex_combination() -> None:
    labels = torch.arange(6)
    images = torch.randn(6, 3, 4, 4)
    mixed = DynamicBetaMixup(6, 0.9, np.random.default_rng(2))(images, labels)
    for b in range(6):
        lam = mixed.lam[b]
        assert 0.5 <= lam <= 1
        expected = lam * images[b] + (1 - lam) * images[mixed.labels_b[b]]
        torch.testing.assert_close(mixed.images[b], expected)
    assert torch.equal(mixed.labels_a, labels)


@pytest.mark.parametrize("scale", [-0.1, 1.1])
def test_scale_is_checked(scale: float) -> None:
    with pytest.raises(MofeError, match="scale = "):
        DynamicBetaMixup(2, scale)


def test_every_image_gets_each_image_of_another_class_equally_often() -> None:
    labels = torch.tensor([3, 0, 2, 0, 1, 2, 2, 0, 3])
    mixup = DynamicBetaMixup(4, 0.9, np.random.default_rng(3))
    drawn = torch.stack([mixup.partners(labels) for _ in range(4000)])
    for image in range(len(labels)):
        counts = torch.bincount(drawn[:, image], minlength=len(labels)).numpy()
        other = (labels != labels[image]).numpy()
        assert not counts[~other].any()
        assert stats.chisquare(counts[other]).pvalue > 1e-4


def test_images_of_one_class_draw_their_partners_independently() -> None:
    mixup = DynamicBetaMixup(2, 0.9, np.random.default_rng(3))
    drawn = torch.stack([mixup.partners(torch.tensor([0, 0, 1, 1, 1, 1])) for _ in range(4000)])
    equal = int((drawn[:, 0] == drawn[:, 1]).sum())
    assert stats.binomtest(equal, 4000, 1 / 4).pvalue > 1e-4


def test_the_only_image_of_another_class_is_the_partner_of_all() -> None:
    partners = DynamicBetaMixup(2, 0.9).partners(torch.tensor([0, 0, 1])).tolist()
    assert partners[:2] == [2, 2]
    assert partners[2] in (0, 1)


def test_an_image_is_blended_by_the_sigma_of_its_own_class() -> None:
    mixup = DynamicBetaMixup(3, 1.0, np.random.default_rng(3))
    mixup.update([0.0, 0.95, 0.5])
    labels = torch.tensor([0, 1, 2] * 7000)
    lam = mixup.sample(labels)
    assert lam.dtype == torch.float32
    for label, sigma in enumerate((1.0, 0.05, 0.5)):
        own = lam[labels == label].double().numpy()
        # E|λ − ½|² is the variance of Beta(σ, σ), 1 / (4 (2 σ + 1))
        assert ((own - 0.5) ** 2).mean() == pytest.approx(1 / (4 * (2 * sigma + 1)), rel=0.03)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_images_of_any_shape_and_float_type_are_blended_in_it(dtype: torch.dtype) -> None:
    for shape in ((6, 5), (6, 2, 3, 4)):
        images = torch.randn(shape).to(dtype)
        mixed = DynamicBetaMixup(6, 0.9, np.random.default_rng(2))(images, torch.arange(6))
        assert mixed.images.dtype == dtype
        assert mixed.lam.dtype == torch.float32
        for b in range(6):
            lam = mixed.lam[b].double()
            expected = lam * images[b].double() + (1 - lam) * images[mixed.labels_b[b]].double()
            close = {"rtol": 0, "atol": 0.03} if dtype == torch.bfloat16 else {}  # which has 8 bits
            torch.testing.assert_close(mixed.images[b], expected.to(dtype), **close)


def test_without_a_generator_every_mixup_draws_afresh() -> None:
    first, second = (DynamicBetaMixup(1, 0.0).sample(torch.zeros(4, dtype=torch.int64)) for _ in range(2))
    assert not torch.equal(first, second)


def test_scales_of_zero_and_one_are_allowed() -> None:
    for scale, sigma in ((0.0, 1.0), (1.0, 0.5)):
        mixup = DynamicBetaMixup(1, scale)
        mixup.update([0.5])
        assert mixup.sigma_C.tolist() == [sigma]
