"""MCM and its kin against pytorch-ood, and by definition in float64."""

import numpy as np
import pytest
import torch
from pytorch_ood.detector import MCM as TheirMCM  # noqa: N811
from samples import Sample
from scipy.special import softmax
from torch import Tensor
from torch.nn.functional import cosine_similarity

from mofe.detection.concept_matching import cosines, gl_mcm, local_mcm, mcm, zero_shot_logits
from mofe.detection.scores import msp
from mofe.errors import MofeError

GENERATOR = torch.Generator().manual_seed(0)
IMAGES, PATCHES, TEXTS = (torch.randn(*shape, generator=GENERATOR) for shape in ((20, 16), (20, 9, 16), (7, 16)))


def by_definition(images: Tensor, texts: Tensor) -> np.ndarray:
    return cosine_similarity(images.double()[..., None, :], texts.double(), dim=-1).numpy()


@pytest.mark.parametrize("temperature", [0.01, 1.0, 50.0])
def test_mcm_against_pytorch_ood(temperature: float, sample: Sample) -> None:
    """The head's weights stand for texts."""
    theirs = TheirMCM(None, sample.weight, temperature).predict_features(sample.test)
    torch.testing.assert_close(mcm(sample.test, sample.weight, temperature).float(), -theirs, atol=1e-5, rtol=0)


def test_zero_shot_by_definition() -> None:
    np.testing.assert_allclose(zero_shot_logits(IMAGES, TEXTS, 30.0), 30 * by_definition(IMAGES, TEXTS), atol=1e-5)
    expected = softmax(100 * by_definition(IMAGES, TEXTS), axis=1).max(1)
    np.testing.assert_allclose(msp(zero_shot_logits(IMAGES, TEXTS)), expected, rtol=1e-4)
    torch.testing.assert_close(mcm(IMAGES, TEXTS, 0.01), msp(zero_shot_logits(IMAGES, TEXTS)), rtol=1e-5, atol=0)


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_the_local_score_and_the_sum_by_definition(temperature: float) -> None:
    local = softmax(by_definition(PATCHES, TEXTS) / temperature, axis=2).max((1, 2))
    np.testing.assert_allclose(local_mcm(PATCHES, TEXTS, temperature), local, rtol=1e-5)
    overall = softmax(by_definition(IMAGES, TEXTS) / temperature, axis=1).max(1)
    ours = gl_mcm(IMAGES, TEXTS, local_mcm(PATCHES, TEXTS, temperature), 0.5, temperature)
    np.testing.assert_allclose(ours, overall + 0.5 * local, rtol=1e-5)


def test_the_length_of_embeddings_and_the_order_of_classes_do_not_matter() -> None:
    lengths = torch.rand(20, 1, generator=GENERATOR) + 0.5
    order = torch.randperm(7, generator=GENERATOR)
    torch.testing.assert_close(mcm(lengths * IMAGES, 3 * TEXTS[order]), mcm(IMAGES, TEXTS))
    torch.testing.assert_close(local_mcm(lengths[..., None] * PATCHES, TEXTS[order]), local_mcm(PATCHES, TEXTS))


def test_half_precision_is_widened_and_one_class_is_certain() -> None:
    assert cosines(IMAGES.half(), TEXTS.bfloat16()).dtype == torch.float32
    assert mcm(IMAGES, TEXTS[:1]).tolist() == [1] * 20


def test_what_cannot_be_matched() -> None:
    for attempt, message in (
        (lambda: mcm(IMAGES, TEXTS[:, 1:]), "16 dimensions and texts in 15"),
        (lambda: mcm(0 * IMAGES, TEXTS), "feature 0 of 20 is zero"),
        (lambda: mcm(IMAGES, TEXTS * torch.nan), "not finite"),
        (lambda: local_mcm(IMAGES, TEXTS), "are not images × patches × dimensions"),
        (lambda: local_mcm(PATCHES[:, :0], TEXTS), "are not images × patches × dimensions"),
        (lambda: gl_mcm(IMAGES, TEXTS, torch.ones(3)), "as many finite local scores"),
        (lambda: gl_mcm(IMAGES, TEXTS, torch.full((20,), torch.nan)), "as many finite local scores"),
    ):
        with pytest.raises(MofeError, match=message):
            attempt()


def test_where_nothing_is_said_it_is_the_official_codes_choice() -> None:
    """Logit scale 100; MCM and GL-MCM at τ = 1, λ = 1."""
    images, patches = by_definition(IMAGES, TEXTS), by_definition(PATCHES, TEXTS)
    np.testing.assert_allclose(zero_shot_logits(IMAGES, TEXTS), 100 * images, atol=1e-4)
    overall, local = softmax(images, axis=1).max(1), softmax(patches, axis=2).max((1, 2))
    np.testing.assert_allclose(mcm(IMAGES, TEXTS), overall, rtol=1e-5)
    np.testing.assert_allclose(local_mcm(PATCHES, TEXTS), local, rtol=1e-5)
    np.testing.assert_allclose(gl_mcm(IMAGES, TEXTS, torch.from_numpy(local)), overall + local, rtol=1e-5)


def test_images_in_float64_keep_their_digits_whatever_the_texts_are_in() -> None:
    found = cosines(IMAGES.double(), TEXTS)
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found, by_definition(IMAGES, TEXTS), rtol=1e-6, atol=1e-7)
