"""The temperature against SciPy's minimum of the likelihood, and pytorch-ood."""

import numpy as np
import pytest
import torch
from pytorch_ood.detector import TemperatureScaling as TheirTemperatureScaling
from samples import Sample
from scipy.optimize import minimize_scalar
from torch import Tensor
from torch.nn.functional import cross_entropy

from mofe.detection.scores import msp
from mofe.detection.temperature import TemperatureScaling
from mofe.errors import MofeError

LOGITS = torch.from_numpy(np.random.default_rng(0).normal(0, 2, (300, 8)))
LABELS = (LOGITS + torch.from_numpy(np.random.default_rng(1).gumbel(0, 3, (300, 8)))).argmax(1)


def noisy(sample: Sample) -> tuple[Tensor, Tensor]:
    """Some labels are wrong, or no temperature would be the best for separable images."""
    return sample.train_logits, torch.where(torch.arange(len(sample.labels)) % 10 == 0, 0, sample.labels)


@pytest.mark.parametrize("scale", [1e-3, 1, 1e2])
@pytest.mark.parametrize("of_sample", [False, True])
def test_it_minimises_the_likelihood(scale: float, of_sample: bool, sample: Sample) -> None:
    logits, labels = noisy(sample) if of_sample else (LOGITS, LABELS)
    logits = scale * logits.double()

    def loss(log_temperature: float) -> float:
        return float(cross_entropy(logits / np.exp(log_temperature), labels))

    expected = np.exp(minimize_scalar(loss, bounds=(-8, 8), method="bounded", options={"xatol": 1e-9}).x)
    assert TemperatureScaling.fit(logits, labels).temperature == pytest.approx(expected, rel=1e-5)


def test_against_pytorch_ood(sample: Sample) -> None:
    """Their L-BFGS stops short of the minimum, at a likelihood no better than ours; at one temperature scores agree."""
    logits, labels = noisy(sample)
    ours, theirs = TemperatureScaling.fit(logits, labels), TheirTemperatureScaling(None)
    for _ in range(30):  # each goes on from where the last one stopped
        theirs.fit_logits(logits, labels)
    their_temperature = float(theirs.t.detach())
    assert ours.temperature == pytest.approx(their_temperature, rel=0.02)
    loss, their_loss = (cross_entropy(logits.double() / t, labels) for t in (ours.temperature, their_temperature))
    assert their_loss * (1 - 1e-3) < loss < their_loss
    scores = TemperatureScaling(their_temperature).score(sample.test_logits)
    torch.testing.assert_close(scores.float(), -theirs.predict_logits(sample.test_logits).detach(), atol=1e-6, rtol=0)


def test_the_score_is_msp_at_that_temperature() -> None:
    fitted = TemperatureScaling.fit(LOGITS, LABELS)
    torch.testing.assert_close(fitted.score(LOGITS), msp(LOGITS / fitted.temperature))


def test_an_added_constant_and_masked_classes_change_nothing() -> None:
    expected = TemperatureScaling.fit(LOGITS, LABELS).temperature
    masked = torch.cat([LOGITS + 7, torch.full((300, 2), -torch.inf)], dim=1)
    assert TemperatureScaling.fit(masked, LABELS).temperature == pytest.approx(expected, rel=1e-9)


def test_where_the_likelihood_has_no_end() -> None:
    right = 5 * torch.eye(4)
    assert TemperatureScaling.fit(right, torch.arange(4)).temperature == 1e-4
    assert TemperatureScaling.fit(-right, torch.arange(4)).temperature == 1e4
    assert TemperatureScaling.fit(-1e-3 * right, torch.arange(4)).temperature == 1e4  # however little they say


@pytest.mark.parametrize(
    "logits",
    [
        torch.zeros(4, 4),
        torch.full((4, 4), -7.5),
        torch.arange(4.0)[:, None].expand(4, 4),
        torch.randn(4, 1),
        torch.tensor([3.0, 3.0, 3.0, 3.0, -torch.inf]).expand(4, 5),
    ],
    ids=["zeros", "one number", "one number an image", "one class", "a masked class"],
)
def test_logits_that_say_nothing_are_left_as_they_are(logits: Tensor) -> None:
    """Each temperature gives the same likelihood: 1 changes nothing."""
    labels = torch.arange(4) % logits.shape[1]
    assert TemperatureScaling.fit(logits, labels).temperature == 1
    one_differs = torch.cat([logits, logits[:1] - torch.eye(logits.shape[1])[:1]])
    if logits.shape[1] > 1:
        assert TemperatureScaling.fit(one_differs, torch.cat([labels, labels[:1]])).temperature == 1e4


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (LOGITS[:0], LABELS[:0], "there are no held-out images"),
        (LOGITS, LABELS[1:], "300 features need 300 labels"),
        (LOGITS, LABELS + 8, "not one of 8 classes"),
        (torch.full((3, 2), -torch.inf), torch.tensor([0, 0, 1]), "3 of 3 held-out images"),
        (torch.tensor([[0.0, torch.nan]]), torch.tensor([1]), "1 of 1 held-out images"),
    ],
)
def test_what_has_no_temperature(logits: Tensor, labels: Tensor, message: str) -> None:
    with pytest.raises(MofeError, match=message):
        TemperatureScaling.fit(logits, labels)


@pytest.mark.parametrize(("best", "expected"), [(2e-5, 1e-4), (7e-5, 1e-4), (7e3, 7e3), (1.4e4, 1e4), (1e6, 1e4)])
def test_a_temperature_beyond_the_ends_is_the_end(best: float, expected: float) -> None:
    """Logits c times as large have a best temperature c times as high."""
    one = TemperatureScaling.fit(LOGITS, LABELS).temperature
    assert TemperatureScaling.fit(LOGITS * best / one, LABELS).temperature == pytest.approx(expected, rel=1e-6)
