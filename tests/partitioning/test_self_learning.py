"""The unsupervised router: its gradient is the objective's, it finds groups that are there, no expert stays empty."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy.optimize import check_grad

from mofe.partitioning.self_learning import RIDGE, _objective, learn_groups


def test_the_objective_is_the_definition_and_its_gradient_is_its_slope() -> None:
    rng = np.random.default_rng(0)
    inputs, weights = rng.normal(size=(9, 4)), rng.normal(size=12)
    p = np.exp(inputs @ weights.reshape(4, 3))
    p /= p.sum(axis=1, keepdims=True)
    mean = p.mean(axis=0)
    sure = -(p * np.log(p)).sum(axis=1).mean()
    spread = -(mean * np.log(mean)).sum()
    assert _objective(weights, inputs, 3)[0] == pytest.approx(RIDGE * (weights**2).sum() - (spread - sure))
    slope = check_grad(lambda w: _objective(w, inputs, 3)[0], lambda w: _objective(w, inputs, 3)[1], weights)
    assert slope < 1e-6


def test_groups_that_are_there_are_found_whatever_their_names() -> None:
    group_C = np.repeat([0, 1, 2, 3], [8, 8, 8, 8])
    prototypes = np.eye(10)[group_C] * 4 + np.random.default_rng(1).normal(size=(32, 10)) * 0.3
    found = learn_groups(prototypes, 4, seed=0)
    assert len({(g, e) for g, e in zip(group_C, found, strict=True)}) == 4


def test_every_expert_gets_a_class_even_where_prototypes_agree() -> None:
    assert sorted(set(learn_groups(np.ones((5, 3)), 3, seed=0))) == [0, 1, 2]
    assert sorted(learn_groups(np.random.default_rng(0).normal(size=(6, 3)), 6, seed=0)) == list(range(6))


def test_the_same_seed_gives_the_same_groups() -> None:
    prototypes = np.random.default_rng(3).normal(size=(40, 16))
    assert (learn_groups(prototypes, 5, 1) == learn_groups(prototypes, 5, 1)).all()


def test_only_directions_from_the_mean_matter() -> None:
    """Each prototype has its opposite among the others, so the mean is 0 whatever the lengths of the pairs."""
    rng = np.random.default_rng(5)
    half = np.eye(6)[np.repeat([0, 1], 6)] + rng.normal(size=(12, 6)) * 0.2
    prototypes, lengths = np.concatenate([half, -half]), np.tile(rng.uniform(0.2, 30, (12, 1)), (2, 1))
    found = learn_groups(prototypes, 4, seed=2)
    assert len({tuple(np.flatnonzero(found == e) // 6) for e in range(4)}) == 4, "the four directions are told apart"
    np.testing.assert_array_equal(learn_groups(prototypes * lengths, 4, seed=2), found)
    np.testing.assert_array_equal(learn_groups(prototypes * 0.01, 4, seed=2), found)
    np.testing.assert_array_equal(learn_groups(prototypes + rng.normal(size=6) * 10, 4, seed=2), found)


def test_a_prototype_at_the_mean_has_no_direction_and_disturbs_none() -> None:
    group_C = np.repeat([0, 1], 6)
    prototypes = np.array([[1.0, 0.0], [-1.0, 0.0]])[group_C]
    found = learn_groups(np.concatenate([prototypes, np.zeros((1, 2))]), 2, seed=0)
    assert set(found[:6]) | set(found[6:12]) == {0, 1}
    assert set(found[:6]) != set(found[6:12])


def test_an_expert_that_no_class_prefers_gets_the_class_that_is_likeliest_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of those whose expert has others, by the probability and not by the logit; the router is given."""
    prototypes, weights = np.random.default_rng(16).normal(size=(6, 2)), np.zeros((3, 3))
    weights[:, 0], weights[:, 1], weights[2] = (3.0, 1.0, 0.0), (-2.0, 4.0, 0.0), (1.0, 1.0, -0.5)
    monkeypatch.setattr(
        "mofe.partitioning.self_learning.minimize", lambda *_, **__: SimpleNamespace(fun=0.0, x=weights.ravel())
    )
    directions = prototypes - prototypes.mean(axis=0)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    logits = directions @ weights[:2] + weights[2]
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = p.argmax(axis=1)
    assert sorted(np.bincount(expected, minlength=3)) == [0, 2, 4], "nobody prefers expert 2, and all could spare one"
    assert p[:, 2].argmax() != logits[:, 2].argmax()
    expected[p[:, 2].argmax()] = 2
    np.testing.assert_array_equal(learn_groups(prototypes, 3, seed=0), expected)
