"""Every fitted detector is tensors and numbers, and answers alike when it comes back from safetensors."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from samples import Sample
from torch import Tensor

from mofe.detection.activations import DICE, ReAct
from mofe.detection.decision_boundary import FDBD
from mofe.detection.gaussian import SSD, Mahalanobis, RelativeMahalanobis
from mofe.detection.gda import GDA
from mofe.detection.hopfield import SHE
from mofe.detection.kl_matching import KLMatching
from mofe.detection.moments import ClassMoments
from mofe.detection.nnguide import NNGuide
from mofe.detection.subspace import Residual, ViM
from mofe.detection.temperature import TemperatureScaling


def moments(s: Sample, normalise: bool = False) -> ClassMoments:
    return ClassMoments.of([(s.train, s.labels)], s.classes, normalise=normalise)


Case = tuple[Callable[[Sample], Any], Callable[[Any, Sample], Tensor]]
CASES: dict[str, Case] = {
    "Mahalanobis": (lambda s: Mahalanobis.fit(moments(s)), lambda d, s: d.score(s.test)),
    "Mahalanobis++": (lambda s: Mahalanobis.fit(moments(s, True)), lambda d, s: d.score(s.test)),
    "RelativeMahalanobis": (lambda s: RelativeMahalanobis.fit(moments(s)), lambda d, s: d.score(s.test)),
    "SSD": (lambda s: SSD.fit(moments(s, True)), lambda d, s: d.score(s.test)),
    "Residual": (lambda s: Residual.fit(moments(s), s.weight, s.bias), lambda d, s: d.score(s.test)),
    "ViM": (lambda s: ViM.fit(moments(s), [s.train], s.weight, s.bias), lambda d, s: d.score(s.test)),
    "GDA": (lambda s: GDA.fit(moments(s, True), s.weight, s.train, s.labels), lambda d, s: d.logits(s.test)),
    "SHE": (
        lambda s: SHE.fit([(s.train, s.labels, s.train_logits.argmax(1))], s.classes),
        lambda d, s: d.score(s.test, s.test_logits.argmax(1)),
    ),
    "NNGuide": (lambda s: NNGuide.fit(s.train, s.train_logits), lambda d, s: d.score(s.test, s.test_logits)),
    "FDBD": (lambda s: FDBD.fit(s.train.mean(0), s.weight, s.bias), lambda d, s: d.score(s.test)),
    "DICE": (lambda s: DICE.fit(s.train.mean(0), s.weight, s.bias), lambda d, s: d.score(s.test)),
    "ReAct": (lambda s: ReAct.fit(s.train), lambda d, s: d.score(s.test, s.weight, s.bias)),
    "TemperatureScaling": (
        lambda s: TemperatureScaling.fit(s.train_logits, s.labels),
        lambda d, s: d.score(s.test_logits),
    ),
    "KLMatching": (lambda s: KLMatching.fit(s.train_logits), lambda d, s: d.score(s.test_logits)),
    "ClassMoments": (moments, lambda d, s: Mahalanobis.fit(d).score(s.test)),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_stored_answers_alike(name: str, sample: Sample, tmp_path: Path) -> None:
    fit, score = CASES[name]
    detector = fit(sample)
    fields = vars(detector)
    assert all(type(value) in (float, int, bool) or value.ndim > 0 for value in fields.values())
    tensors = {key: torch.tensor(v, dtype=torch.float64) if isinstance(v, float) else v for key, v in fields.items()}
    save_file({key: torch.as_tensor(value) for key, value in tensors.items()}, tmp_path / "detector.safetensors")
    stored = load_file(tmp_path / "detector.safetensors")
    again = type(detector)(**{key: value if value.ndim else value.item() for key, value in stored.items()})
    assert torch.equal(score(again, sample), score(detector, sample))


@pytest.mark.parametrize("name", CASES)
def test_what_is_scored_one_by_one_is_what_is_scored_together(name: str, sample: Sample) -> None:
    fit, score = CASES[name]
    detector, few = fit(sample), sample._replace(test=sample.test[:5])
    together = score(detector, few)
    for row in range(5):
        alone = score(detector, sample._replace(test=sample.test[row : row + 1]))
        torch.testing.assert_close(alone, together[row : row + 1], rtol=1e-4, atol=1e-4)
    assert together.shape[0] == 5 and torch.isfinite(together).all()


@pytest.mark.parametrize("name", CASES)
def test_half_precision_is_widened(name: str, sample: Sample) -> None:
    """Features are stored in half precision; what is computed from them is not."""
    fit, score = CASES[name]
    half = sample._replace(train=sample.train.half(), test=sample.test.half())
    wide = sample._replace(train=half.train.float(), test=half.test.float())
    torch.testing.assert_close(score(fit(half), half), score(fit(wide), wide), rtol=1e-5, atol=1e-5)
