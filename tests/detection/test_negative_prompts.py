"""CLIPN and LSN by definition in float64."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.special import softmax
from torch import Tensor

from mofe.detection.negative_prompts import clipn_atd, clipn_ctw, lsn
from mofe.errors import MofeError

GENERATOR = torch.Generator().manual_seed(0)
IMAGES, YES, *NO = (torch.randn(size, 16, generator=GENERATOR) for size in (30, 6, 6, 6, 6))
SCORES = [lambda i, y, n: clipn_ctw(i, y, n[0]), lambda i, y, n: clipn_atd(i, y, n[0]), lsn]


def cos(texts: Tensor) -> np.ndarray:
    images, texts = (x.double() / x.double().norm(dim=1, keepdim=True) for x in (IMAGES, texts))
    return (images @ texts.T).numpy()


@pytest.mark.parametrize("scale", [5.0, 100.0])
def test_clipn_by_definition(scale: float) -> None:
    yes, no = scale * cos(YES), scale * cos(NO[0])
    p = softmax(np.stack([yes, no]), axis=0)[0]
    winner = p[np.arange(30), yes.argmax(1)]
    np.testing.assert_allclose(clipn_ctw(IMAGES, YES, NO[0], scale), winner, rtol=1e-3, atol=1e-12)
    expected = (p * softmax(yes, axis=1)).sum(1)
    np.testing.assert_allclose(clipn_atd(IMAGES, YES, NO[0], scale), expected, rtol=1e-3, atol=1e-12)


@pytest.mark.parametrize("sets", [1, 3])
def test_lsn_by_definition(sets: int) -> None:
    doubt = [softmax((1 - cos(no)) / 5, axis=1).max(1) for no in NO[:sets]]
    expected = softmax(cos(YES), axis=1).max(1) + np.mean(doubt, axis=0)
    np.testing.assert_allclose(lsn(IMAGES, YES, NO[:sets]), expected, rtol=1e-5)


@pytest.mark.parametrize("score", SCORES)
def test_the_length_of_embeddings_and_the_order_of_classes_do_not_matter(score: Callable[..., Tensor]) -> None:
    order = torch.randperm(6, generator=GENERATOR)
    same = score(4 * IMAGES, 3 * YES[order], [5 * no[order] for no in NO])
    torch.testing.assert_close(same, score(IMAGES, YES, NO), rtol=1e-3, atol=1e-6)


def test_no_against_yes() -> None:
    assert clipn_ctw(IMAGES, YES, YES).tolist() == [0.5] * 30
    torch.testing.assert_close(clipn_atd(IMAGES, YES, YES), torch.full((30,), 0.5, dtype=torch.float64))


@pytest.mark.parametrize(
    ("attempt", "message"),
    [
        (lambda: clipn_ctw(IMAGES, YES, NO[0][1:]), "needs one of each"),
        (lambda: clipn_atd(IMAGES, YES, NO[0] * torch.nan), "not finite"),
        (lambda: lsn(IMAGES, YES, []), "at least one set"),
        (lambda: lsn(IMAGES, 0 * YES, NO), "is zero"),
    ],
)
def test_what_cannot_be_compared(attempt: Callable[[], Tensor], message: str) -> None:
    with pytest.raises(MofeError, match=message):
        attempt()


def test_where_nothing_is_said_the_logit_scale_is_100() -> None:
    yes, no = 100 * cos(YES), 100 * cos(NO[0])
    p = softmax(np.stack([yes, no]), axis=0)[0]
    np.testing.assert_allclose(clipn_ctw(IMAGES, YES, NO[0]), p[np.arange(30), yes.argmax(1)], rtol=1e-3, atol=1e-12)
    expected = (p * softmax(yes, axis=1)).sum(1)
    np.testing.assert_allclose(clipn_atd(IMAGES, YES, NO[0]), expected, rtol=1e-3, atol=1e-12)
