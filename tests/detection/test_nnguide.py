"""NNGuide against pytorch-ood, and by definition."""

import numpy as np
import pytest
import torch
from pytorch_ood.detector import NNGuide as TheirNNGuide
from samples import Sample

from mofe.detection.nnguide import NNGuide
from mofe.errors import MofeError


@pytest.mark.parametrize("k", [1, 10, 100])
def test_against_pytorch_ood(k: int, sample: Sample) -> None:
    theirs = TheirNNGuide(None, lambda z: z @ sample.weight.T + sample.bias, k).fit_features(
        sample.train, sample.labels
    )
    scores = NNGuide.fit(sample.train, sample.train_logits, k).score(sample.test, sample.test_logits)
    torch.testing.assert_close(scores, -theirs.predict_features(sample.test), rtol=1e-4, atol=1e-4)


def by_definition(bank: np.ndarray, bank_energy: np.ndarray, new: np.ndarray, energy: np.ndarray, k: int) -> np.ndarray:
    bank, new = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (bank, new))
    return np.sort(new @ (bank * bank_energy[:, None]).T, axis=1)[:, -k:].mean(1) * energy


def test_a_bank_larger_than_a_block() -> None:
    rng = np.random.default_rng(0)
    bank, new = rng.normal(size=(70_000, 4)), rng.normal(size=(1100, 4))
    bank_logits, logits = rng.normal(size=(70_000, 2)), rng.normal(size=(1100, 2))
    scores = NNGuide.fit(*map(torch.from_numpy, (bank, bank_logits)), 3).score(*map(torch.from_numpy, (new, logits)))
    some = np.r_[0:20, 1080:1100]
    energies = np.logaddexp(*bank_logits.T), np.logaddexp(*logits.T)
    expected = by_definition(bank, energies[0], new[some], energies[1][some], 3)
    np.testing.assert_allclose(scores[some], expected, rtol=1e-5)


def test_the_length_of_features_and_the_order_of_the_bank_do_not_matter(sample: Sample) -> None:
    order = torch.randperm(len(sample.train))
    expected = NNGuide.fit(sample.train, sample.train_logits).score(sample.test, sample.test_logits)
    shuffled = NNGuide.fit(3 * sample.train[order], sample.train_logits[order])
    torch.testing.assert_close(shuffled.score(sample.test / 9, sample.test_logits), expected, rtol=1e-5, atol=1e-5)


def test_fewer_images_than_k_are_all_used(sample: Sample) -> None:
    few = NNGuide.fit(sample.train[:3], sample.train_logits[:3], 50)
    same = NNGuide.fit(sample.train[:3], sample.train_logits[:3], 3)
    torch.testing.assert_close(few.score(sample.test, sample.test_logits), same.score(sample.test, sample.test_logits))


def test_what_cannot_guide(sample: Sample) -> None:
    for train, k, message in (
        (sample.train, 0, "k = 0"),
        (sample.train[:0], 1, "there are no training features"),
        (0 * sample.train, 1, "feature 0 of .* is zero"),
        (sample.train * torch.nan, 1, "not finite"),
    ):
        with pytest.raises(MofeError, match=message):
            NNGuide.fit(train, sample.train_logits[: len(train)], k)


def test_features_of_another_width_are_refused_and_of_another_precision_are_not(sample: Sample) -> None:
    guide = NNGuide.fit(sample.train, sample.train_logits)
    with pytest.raises(MofeError, match="the detector was fitted on"):
        guide.score(sample.test[:, 1:], sample.test_logits)
    expected = guide.score(sample.test, sample.test_logits)
    torch.testing.assert_close(guide.score(sample.test.double(), sample.test_logits.double()), expected)
