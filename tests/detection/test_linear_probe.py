"""The linear probe is scikit-learn's logistic regression on standardised features, of some images of each class."""

from typing import Any, Self

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from mofe.detection import linear_probe as module
from mofe.detection.linear_probe import linear_probe

RNG = np.random.default_rng(0)
LABELS = RNG.permutation(np.repeat([0, 1, 2], [70, 5, 30]))
FEATURES = RNG.normal(size=(105, 4)) + LABELS[:, None]


@pytest.fixture
def regressions(monkeypatch: pytest.MonkeyPatch) -> list[LogisticRegression]:
    """What logistic regressions were fitted on, as their attributes ``x`` and ``y``."""
    fitted = []

    class Recorded(LogisticRegression):
        def fit(self, x: np.ndarray, y: np.ndarray, *more: Any) -> Self:
            self.x, self.y = x, y
            fitted.append(self)
            return super().fit(x, y, *more)

    monkeypatch.setattr("sklearn.linear_model.LogisticRegression", Recorded)
    return fitted


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_its_logits_are_scikit_learns(classes: int, dtype: type) -> None:
    """Of two classes scikit-learn has one logit, the second's lead over the first."""
    z, labels = (x[np.isin(LABELS, range(classes))] for x in (FEATURES.astype(dtype), LABELS))
    mean, spread = z.astype(float).mean(axis=0), z.astype(float).std(axis=0)
    standard = (z.astype(float) - mean) / spread
    expected = LogisticRegression(max_iter=200).fit(standard, labels).predict_log_proba(standard)
    weight, bias = (x.numpy() for x in linear_probe(z, labels))
    assert (weight.shape, bias.shape, weight.dtype, bias.dtype) == ((classes, 4), (classes,), np.float32, np.float32)
    logits = z.astype(float) @ weight.T.astype(float) + bias
    lead, expected_lead = (x - x[:, :1] for x in (logits, expected))
    np.testing.assert_allclose(lead, expected_lead, atol=1e-4)


def test_of_a_large_class_some_images_take_part_and_of_a_small_one_all(
    monkeypatch: pytest.MonkeyPatch, regressions: list[LogisticRegression]
) -> None:
    monkeypatch.setattr(module, "MOST", 20)
    z = np.c_[FEATURES, LABELS, np.arange(105)]
    for seed in (3, 3, 4):
        linear_probe(z, LABELS, seed=seed)
    assert [np.bincount(model.y).tolist() for model in regressions] == [[20, 5, 20]] * 3
    first, again, other = (model.x for model in regressions)
    assert len(np.unique(first[:, -1])) == 45, "no image takes part twice"
    np.testing.assert_array_equal(again, first)
    assert not np.array_equal(other, first)
    for model in regressions:
        np.testing.assert_allclose(model.x.mean(axis=0), 0, atol=1e-12)
        np.testing.assert_allclose(model.x.std(axis=0), 1, rtol=1e-12)
        assert len(np.unique(np.c_[model.x[:, -2].round(6), model.y], axis=0)) == 3, "each with its own label"


def test_its_logits_are_those_of_a_regression_on_the_images_that_take_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """The images of a larger class are copies of one, so that whichever 20 take part, the regression is the same."""
    monkeypatch.setattr(module, "MOST", 20)
    rng = np.random.default_rng(0)
    ones, small = np.array([[0.0, 1, 5, -2], [3.0, 1, 4, 0]]), rng.normal(size=(5, 4)) + 1
    labels = np.repeat([0, 1, 2], [70, 5, 30])
    z = np.concatenate([np.repeat(ones[:1], 70, axis=0), small, np.repeat(ones[1:], 30, axis=0)])
    seen = np.concatenate([np.repeat(ones[:1], 20, axis=0), small, np.repeat(ones[1:], 20, axis=0)])
    mean, spread = seen.mean(axis=0), seen.std(axis=0)
    model = LogisticRegression(max_iter=200).fit((seen - mean) / spread, np.repeat([0, 1, 2], [20, 5, 20]))
    mixed = rng.permutation(105)
    weight, bias = linear_probe(z[mixed], labels[mixed])
    images = rng.normal(size=(50, 4))
    logits = images @ weight.numpy().T + bias.numpy()
    np.testing.assert_allclose(logits, model.decision_function((images - mean) / spread), atol=1e-4)


def test_where_no_seed_is_named_it_is_zero(
    monkeypatch: pytest.MonkeyPatch, regressions: list[LogisticRegression]
) -> None:
    monkeypatch.setattr(module, "MOST", 20)
    linear_probe(FEATURES, LABELS)
    linear_probe(FEATURES, LABELS, seed=0)
    np.testing.assert_array_equal(regressions[0].x, regressions[1].x)


def test_200_images_of_a_class_take_part(regressions: list[LogisticRegression]) -> None:
    labels = np.repeat([0, 1], [201, 200])
    linear_probe(RNG.normal(size=(401, 2)), labels)
    assert np.bincount(regressions[0].y).tolist() == [200, 200]


@pytest.mark.parametrize("classes", [2, 3])
def test_a_constant_feature_changes_nothing(classes: int) -> None:
    z, labels = (x[np.isin(LABELS, range(classes))] for x in (FEATURES, LABELS))
    weight, bias = linear_probe(z, labels)
    wider, same = linear_probe(np.c_[z, np.full(len(z), 7.0)], labels)
    np.testing.assert_allclose(wider[:, :4], weight, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(wider[:, 4], 0, atol=1e-7)
    np.testing.assert_allclose(same, bias, rtol=1e-4, atol=1e-5)


def test_one_class_has_nothing_to_be_told_from() -> None:
    weight, bias = linear_probe(FEATURES, np.zeros(105, int))
    assert (weight.tolist(), bias.tolist()) == ([[0, 0, 0, 0]], [0])
