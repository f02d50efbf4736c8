"""KL matching against pytorch-ood, and by definition in float64."""

import numpy as np
import pytest
import torch
from pytorch_ood.detector import KLMatching as TheirKLMatching
from samples import Sample
from scipy.stats import entropy

from mofe.detection.kl_matching import KLMatching
from mofe.errors import MofeError


def test_against_pytorch_ood(sample: Sample) -> None:
    theirs = TheirKLMatching(None).fit_logits(sample.train_logits).predict_logits(sample.test_logits)
    ours = KLMatching.fit(sample.train_logits).score(sample.test_logits)
    torch.testing.assert_close(ours.float(), -theirs, atol=1e-4, rtol=1e-4)


def test_by_definition(sample: Sample) -> None:
    known, new = (x.double().softmax(1).numpy() for x in (sample.train_logits, sample.test_logits))
    typical = [known[known.argmax(1) == k].mean(0) for k in np.unique(known.argmax(1))]
    expected = -np.min([entropy(new, d[None], axis=1) for d in typical], axis=0)
    ours = KLMatching.fit(sample.train_logits).score(sample.test_logits)
    np.testing.assert_allclose(ours, expected, rtol=1e-9, atol=1e-12)


def test_the_order_of_images_and_an_added_constant_change_nothing(sample: Sample) -> None:
    order = torch.randperm(len(sample.train))
    again = KLMatching.fit(sample.train_logits[order].double() + 3).score(sample.test_logits.double() - 8)
    torch.testing.assert_close(again, KLMatching.fit(sample.train_logits).score(sample.test_logits))


def test_a_class_that_nothing_is_taken_for_has_no_posterior() -> None:
    known, of_third = torch.tensor([[3.0, 0, 0], [0, 2, 0]]), torch.tensor([[0.0, 0, 3]])
    fitted = KLMatching.fit(known)
    assert fitted.log_typical_KC.shape == (2, 3)
    expected = -entropy(of_third.softmax(1).numpy(), known.softmax(1).numpy(), axis=1).min()
    assert fitted.score(of_third).item() == pytest.approx(expected, rel=1e-5)


def test_masked_classes_are_far_but_finite() -> None:
    masked = torch.tensor([[2.0, 1, -torch.inf], [-torch.inf, 0, 3]])
    scores = KLMatching.fit(masked[:1]).score(masked)
    assert scores[0] == pytest.approx(0, abs=1e-12)
    assert torch.isfinite(scores).all() and scores[1] < -100
    assert KLMatching.fit(torch.ones(2, 1)).score(torch.zeros(2, 1)).tolist() == [0, 0]  # one class


@pytest.mark.parametrize("logits", [torch.zeros(0, 3), torch.tensor([[0, torch.nan]]), torch.full((1, 2), -torch.inf)])
def test_what_has_no_typical_posterior(logits: torch.Tensor) -> None:
    with pytest.raises(MofeError, match="known images"):
        KLMatching.fit(logits)
