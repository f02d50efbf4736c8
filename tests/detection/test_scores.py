"""Scores from logits against pytorch-ood and float64."""

import numpy as np
import pytest
import torch
from pytorch_ood.detector import EnergyBased, MaxLogit, MaxSoftmax

from mofe.detection.scores import energy, max_logit, msp

LOGITS = torch.from_numpy(np.random.default_rng(0).normal(0, 4, (500, 30))).float()


def test_against_pytorch_ood() -> None:
    """Theirs is higher = more OOD."""
    torch.testing.assert_close(msp(LOGITS), -MaxSoftmax(None).predict_logits(LOGITS), atol=1e-6, rtol=0)
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
    for score in (msp, max_logit, energy):
        torch.testing.assert_close(score(masked), score(LOGITS[:, :10]))


def test_an_added_constant_does_not_change_msp() -> None:
    torch.testing.assert_close(msp(LOGITS.double() + 50), msp(LOGITS.double()), atol=1e-12, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened(dtype: torch.dtype) -> None:
    for score in (msp, max_logit, energy):
        assert score(LOGITS.to(dtype)).dtype == torch.float32
