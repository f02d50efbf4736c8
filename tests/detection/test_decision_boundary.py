"""fDBD against pytorch-ood, and by definition."""

import numpy as np
import pytest
import torch
from pytorch_ood.detector import fDBD as TheirFDBD
from samples import Sample
from torch import nn

from mofe.detection.decision_boundary import FDBD
from mofe.errors import MofeError


def fitted(sample: Sample) -> FDBD:
    return FDBD.fit(sample.train.mean(0), sample.weight, sample.bias)


def test_against_pytorch_ood(sample: Sample) -> None:
    head = nn.Linear(*reversed(sample.weight.shape))
    head.weight.data, head.bias.data = sample.weight, sample.bias
    theirs = TheirFDBD(None, head).fit_features(sample.train).predict_features(sample.test)
    torch.testing.assert_close(fitted(sample).score(sample.test).float(), -theirs, rtol=1e-4, atol=1e-5)


def test_by_definition(sample: Sample) -> None:
    weight, bias, mean = (x.double().numpy() for x in (sample.weight, sample.bias, sample.train.mean(0)))
    expected = []
    for z in sample.test.double().numpy():
        logits = weight @ z + bias
        top = logits.argmax()
        others = [c for c in range(sample.classes) if c != top]
        to_boundaries = [abs(logits[top] - logits[c]) / np.linalg.norm(weight[top] - weight[c]) for c in others]
        expected.append(np.mean(to_boundaries) / np.linalg.norm(z - mean))
    np.testing.assert_allclose(fitted(sample).score(sample.test.double()), expected, rtol=1e-9)
    np.testing.assert_allclose(fitted(sample).score(sample.test), expected, rtol=1e-5)


def test_one_unit_for_all_features_and_constants_of_the_head_do_not_matter(sample: Sample) -> None:
    scaled = FDBD.fit(8 * sample.train.mean(0), 0.5 * (sample.weight + 1), 4 * sample.bias)
    expected = fitted(sample).score(sample.test)
    torch.testing.assert_close(scaled.score(8 * sample.test), expected, rtol=1e-4, atol=1e-6)


def test_the_mean_itself_has_a_score(sample: Sample) -> None:
    assert torch.isfinite(fitted(sample).score(sample.train.mean(0, keepdim=True))).all()


def test_what_has_no_boundaries(sample: Sample) -> None:
    twins = sample.weight.clone()
    twins[3] = twins[1]
    for weight, bias, message in (
        (sample.weight[:1], sample.bias[:1], "needs two classes"),
        (twins, sample.bias, "classes 1 and 3 have equal weights"),
        (sample.weight[:, 1:], sample.bias, "the head reads"),
        (sample.weight / 0, sample.bias, "not finite"),
    ):
        with pytest.raises(MofeError, match=message):
            FDBD.fit(sample.train.mean(0), weight, bias)


def test_two_classes_have_one_boundary() -> None:
    """By hand: logits 5 and 1 for z = (3, 4) of length 5, weights at a distance of 2."""
    fitted = FDBD.fit(torch.zeros(2), torch.tensor([[1.0, 0], [-1, 0]]), torch.tensor([2.0, 4.0]))
    assert fitted.score(torch.tensor([[3.0, 4.0]])).item() == pytest.approx(4 / (2 * 5))


@pytest.mark.parametrize(("away", "divisor"), [(0.5, 0.5), (1e-3, 1e-3), (0.0, 1e-8)])
def test_a_feature_near_the_mean_is_divided_by_its_distance_from_it(away: float, divisor: float) -> None:
    """At the mean itself, where the paper has no score, by 1e-8."""
    fitted = FDBD.fit(torch.zeros(2), torch.tensor([[1.0, 0], [-1, 0]]), torch.tensor([3.0, 1.0]))
    assert fitted.score(torch.tensor([[0.0, away]], dtype=torch.float64)).item() == pytest.approx(1 / divisor)


def test_what_all_weights_of_many_classes_share_does_not_matter() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(40, 8, generator=generator).double()
    mean, bias = torch.zeros(8).double(), torch.zeros(40).double()
    alone = FDBD.fit(mean, weight, bias).between_CC
    torch.testing.assert_close(FDBD.fit(mean, weight + 1e6, bias).between_CC, alone, rtol=1e-7, atol=0)


def test_a_score_has_the_precision_of_its_features_which_have_the_width_of_the_mean(sample: Sample) -> None:
    assert fitted(sample).score(sample.test).dtype == torch.float32
    assert fitted(sample).score(sample.test.double()).dtype == torch.float64
    with pytest.raises(MofeError, match="the detector was fitted on"):
        fitted(sample).score(sample.test[:, 1:])
