"""NegLabel by definition in float64, group by group."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.special import softmax

from mofe.detection.negative_labels import far_words, neg_label, shuffled_groups
from mofe.errors import MofeError

GENERATOR = torch.Generator().manual_seed(0)
IMAGES, TEXTS, WORDS = (torch.randn(size, 16, generator=GENERATOR) for size in (30, 6, 103))


def unit(embeddings: torch.Tensor) -> np.ndarray:
    return (embeddings.double() / embeddings.double().norm(dim=1, keepdim=True)).numpy()


@pytest.mark.parametrize("logit_scale", [1.0, 100.0])
@pytest.mark.parametrize("groups", [1, 10, 100])
def test_the_score_by_definition(groups: int, logit_scale: float) -> None:
    known, words = unit(IMAGES) @ unit(TEXTS).T, unit(IMAGES) @ unit(WORDS).T
    each = np.split(words[:, : 103 // groups * groups], groups, axis=1)
    of_groups = [softmax(logit_scale * np.c_[known, group], axis=1)[:, :6].sum(1) for group in each]
    ours = neg_label(IMAGES, TEXTS, WORDS, groups, logit_scale)
    np.testing.assert_allclose(ours, np.mean(of_groups, axis=0), rtol=1e-4, atol=1e-12)


def test_far_words_by_definition() -> None:
    nearness = np.quantile(unit(WORDS) @ unit(TEXTS).T, 0.8, axis=1)
    expected = np.argsort(nearness)[: int(103 * 0.15)]
    assert far_words(WORDS, TEXTS, quantile=0.8).tolist() == expected.tolist()
    assert far_words(WORDS.repeat(30, 1), TEXTS, 1.0).shape == (3090,)  # more than one part
    assert far_words(WORDS, TEXTS, 0.0).shape == (0,)


def test_groups_are_a_permutation_of_all_but_a_remainder() -> None:
    order = shuffled_groups(103, 10)
    assert sorted(order.tolist()) == list(range(100))
    assert order.tolist() == shuffled_groups(103, 10).tolist() != shuffled_groups(103, 10, seed=1).tolist()


def test_the_order_within_a_group_and_lengths_do_not_matter() -> None:
    order = torch.cat([torch.randperm(10, generator=GENERATOR) + 10 * g for g in range(10)])
    same = neg_label(2 * IMAGES, 3 * TEXTS.flip(0), 9 * WORDS[order], 10)
    torch.testing.assert_close(same, neg_label(IMAGES, TEXTS, WORDS, 10), rtol=1e-3, atol=1e-12)


def test_sure_images_do_not_tie() -> None:
    """In float32 each of these scores is 1."""
    images = TEXTS[0] + torch.tensor([[0.0], [0.1], [0.2]]) * torch.randn(16, generator=GENERATOR)
    scores = neg_label(images, TEXTS[:1], -TEXTS[:1], 1, logit_scale=12.0)
    assert scores.float().tolist() == [1, 1, 1]
    assert scores.unique().numel() == 3


def test_what_cannot_be_grouped() -> None:
    for attempt, message in (
        (lambda: neg_label(IMAGES, TEXTS, WORDS, 104), "103 negative words cannot make up 104 groups"),
        (lambda: neg_label(IMAGES, TEXTS, WORDS, 0), "cannot make up 0 groups"),
        (lambda: shuffled_groups(3, 4), "3 negative words cannot make up 4 groups"),
        (lambda: far_words(WORDS, TEXTS, 1.5), "must lie in"),
        (lambda: far_words(WORDS, TEXTS, 0.5, -1), "must lie in"),
        (lambda: neg_label(IMAGES * torch.inf, TEXTS, WORDS), "not finite"),
    ):
        with pytest.raises(MofeError, match=message):
            attempt()


def test_where_nothing_is_said_it_is_the_official_codes_choice() -> None:
    """15 % of the words by the 0.95 quantile; 100 groups, permuted with seed 0; logit scale 100."""
    nearness = np.quantile(unit(WORDS) @ unit(TEXTS).T, 0.95, axis=1)
    assert far_words(WORDS, TEXTS).tolist() == np.argsort(nearness)[:15].tolist()
    expected = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    assert shuffled_groups(250).tolist() == expected.tolist()
    known, words = unit(IMAGES) @ unit(TEXTS).T, unit(IMAGES) @ unit(WORDS[:100]).T
    shares = [softmax(100 * np.c_[known, words[:, k]], axis=1)[:, :6].sum(1) for k in range(100)]
    np.testing.assert_allclose(neg_label(IMAGES, TEXTS, WORDS), np.mean(shares, axis=0), rtol=1e-4, atol=1e-12)


def test_as_many_groups_as_words_and_one_group_of_all() -> None:
    assert sorted(shuffled_groups(4, 4).tolist()) == sorted(shuffled_groups(4, 1).tolist()) == [0, 1, 2, 3]
    assert neg_label(IMAGES, TEXTS, WORDS, 103).shape == (30,)
    with pytest.raises(MofeError, match="cannot make up 0 groups"):
        shuffled_groups(3, 0)


@pytest.mark.parametrize(("quantile", "nearness"), [(0.0, np.min), (1.0, np.max)])
def test_the_ends_of_the_quantile_are_the_farthest_and_the_nearest_class(
    quantile: float, nearness: Callable[..., np.ndarray]
) -> None:
    expected = np.argsort(nearness(unit(WORDS) @ unit(TEXTS).T, axis=1))[:15]
    assert far_words(WORDS, TEXTS, quantile=quantile).tolist() == expected.tolist()
    with pytest.raises(MofeError, match=r"quantile = 1\.5 must lie in \[0, 1\]"):
        far_words(WORDS, TEXTS, quantile=1.5)
