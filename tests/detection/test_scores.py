"""Scores from logits against pytorch-ood and float64."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from pytorch_ood.detector import GEN, EnergyBased, Entropy, MaxLogit, MaxSoftmax
from samples import Sample
from scipy.stats import entropy
from torch import Tensor

from mofe.detection.scores import energy, generalised_entropy, max_logit, msp, negative_entropy

LOGITS = torch.from_numpy(np.random.default_rng(0).normal(0, 4, (500, 30))).float()


def test_against_pytorch_ood() -> None:
    """Theirs is higher = more OOD."""
    torch.testing.assert_close(msp(LOGITS).float(), -MaxSoftmax(None).predict_logits(LOGITS), atol=1e-6, rtol=0)
    torch.testing.assert_close(max_logit(LOGITS), -MaxLogit(None).predict_logits(LOGITS))
    torch.testing.assert_close(energy(LOGITS), -EnergyBased(None).predict_logits(LOGITS), atol=1e-5, rtol=0)


def test_energy_with_a_temperature_in_float64() -> None:
    wide = LOGITS.double()
    torch.testing.assert_close(
        energy(LOGITS, 3.0).double(), 3 * torch.log(torch.exp(wide / 3).sum(1)), atol=1e-5, rtol=1e-6
    )


def test_others_take_part_in_the_softmax_and_are_no_evidence() -> None:
    others = torch.randn(500)
    full = torch.softmax(torch.cat([LOGITS, others[:, None]], 1).double(), 1)
    torch.testing.assert_close(msp(LOGITS, others).double(), full[:, :-1].amax(1), atol=1e-6, rtol=0)


def test_classes_of_other_experts_do_not_count() -> None:
    masked = LOGITS.clone()
    masked[:, 10:] = -torch.inf
    for score in (msp, max_logit, energy, negative_entropy, generalised_entropy):
        torch.testing.assert_close(score(masked), score(LOGITS[:, :10]))


@pytest.mark.parametrize("score", [msp, negative_entropy, generalised_entropy])
def test_an_added_constant_does_not_change_what_is_a_softmaxs(score: Callable[[Tensor], Tensor]) -> None:
    torch.testing.assert_close(score(LOGITS.double() + 50), score(LOGITS.double()), atol=1e-10, rtol=0)


@pytest.mark.parametrize("score", [msp, max_logit, energy, negative_entropy, generalised_entropy])
def test_the_order_of_classes_does_not_matter(score: Callable[[Tensor], Tensor]) -> None:
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(score(LOGITS[:, order]), score(LOGITS))


def test_entropies_against_pytorch_ood(sample: Sample) -> None:
    """Theirs of GEN is the mean where the paper has the sum, and both clip probabilities at 1e-7.

    That makes 0.2 of each term of GEN whose probability is less, so the comparison is where none is.
    """
    logits = 0.1 * sample.test_logits
    assert float(logits.double().softmax(1).amin()) > 1e-7
    torch.testing.assert_close(negative_entropy(logits), -Entropy.score(logits), atol=1e-5, rtol=0)
    for top in (3, 100):
        theirs = GEN.score(logits, gamma=0.1, M=top)
        torch.testing.assert_close(-generalised_entropy(logits, 0.1, top) / min(top, sample.classes), theirs)


@pytest.mark.parametrize("gamma", [0.1, 1.0])
@pytest.mark.parametrize("top", [1, 10, 30, 100])
def test_generalised_entropy_by_definition(gamma: float, top: int) -> None:
    p = np.sort(torch.softmax(LOGITS.double(), 1).numpy(), axis=1)[:, ::-1][:, :top]
    expected = -((p * (1 - p)) ** gamma).sum(axis=1)
    np.testing.assert_allclose(generalised_entropy(LOGITS, gamma, top), expected, rtol=1e-5)


def test_entropy_by_definition() -> None:
    np.testing.assert_allclose(negative_entropy(LOGITS), -entropy(LOGITS.double().softmax(1), axis=1), rtol=1e-5)


def test_nothing_ties_where_the_softmax_saturates() -> None:
    """In float32 the probability of the first class is 1 in every row."""
    logits = torch.stack([torch.tensor([gap, 0.0, 0.0]) for gap in (20.0, 30.0, 60.0)])
    assert logits.softmax(dim=1)[:, 0].unique().numel() == 1
    assert (msp(logits).diff() > 0).all()
    for score in (negative_entropy, generalised_entropy):
        values = score(logits)
        assert (values.diff() > 0).all()
        torch.testing.assert_close(values, score(logits.double()).float(), rtol=1e-4, atol=0)


def test_one_class_leaves_no_doubt() -> None:
    for score in (negative_entropy, generalised_entropy):
        assert score(LOGITS[:, :1]).eq(0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened(dtype: torch.dtype) -> None:
    for score in (max_logit, energy, negative_entropy, generalised_entropy):
        assert score(LOGITS.to(dtype)).dtype == torch.float32
    assert msp(LOGITS.to(dtype)).dtype == torch.float64


def test_energy_at_temperature_two() -> None:
    wide = LOGITS.double()
    expected = 2 * torch.log(torch.exp(wide / 2).sum(1))
    torch.testing.assert_close(energy(LOGITS, 2.0).double(), expected, atol=1e-5, rtol=1e-6)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_others_are_divided_by_the_temperature_too(temperature: float) -> None:
    others = torch.randn(500, generator=torch.Generator().manual_seed(0))
    full = torch.softmax(torch.cat([LOGITS, others[:, None]], 1).double() / temperature, 1)
    torch.testing.assert_close(msp(LOGITS, others, temperature), full[:, :-1].amax(1), atol=1e-6, rtol=0)


def test_generalised_entropy_takes_the_100_likeliest_of_more_classes() -> None:
    logits = torch.from_numpy(np.random.default_rng(1).normal(0, 1, (20, 130)))
    p = np.sort(torch.softmax(logits, 1).numpy(), axis=1)[:, ::-1][:, :100]
    np.testing.assert_allclose(generalised_entropy(logits), -((p * (1 - p)) ** 0.1).sum(axis=1), rtol=1e-9)


@pytest.mark.parametrize("score", [negative_entropy, generalised_entropy])
def test_in_float64_nothing_ties_before_e_to_the_minus_600(score: Callable[[Tensor], Tensor]) -> None:
    logits = torch.tensor([[gap, 0.0, 0.0] for gap in (60, 100, 200, 600)]).double()
    assert (score(logits).diff() > 0).all()
