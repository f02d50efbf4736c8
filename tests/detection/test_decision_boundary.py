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
