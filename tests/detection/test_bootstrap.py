"""Bootstrap intervals against a plain loop with scikit-learn, and what they promise."""

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_auc_score, roc_curve

from mofe.detection import bootstrap
from mofe.detection.bootstrap import bootstrap_intervals, resample_metrics
from mofe.detection.metrics import ood_metrics
from mofe.errors import MofeError

RNG = np.random.default_rng(0)


def gaussians(n: int, m: int, decimals: int, rng: np.random.Generator = RNG) -> tuple[np.ndarray, np.ndarray]:
    return rng.normal(1.5, 1, n).round(decimals), rng.normal(0, 1, m).round(decimals)


@pytest.mark.parametrize(("n", "m"), [(60, 40), (1, 1), (20, 3), (19, 300)])
@pytest.mark.parametrize("decimals", [9, 1, 0])
def test_each_resample_is_scikit_learns(n: int, m: int, decimals: int) -> None:
    known, unknown = gaussians(n, m, decimals)
    id_rng, ood_rng = np.random.default_rng(7).spawn(2)
    id_draws, ood_draws = id_rng.integers(n, size=(50, n)), ood_rng.integers(m, size=(50, m))
    fpr95, auroc = resample_metrics(known, unknown, resamples=50, seed=7)
    for i, (drawn_known, drawn_unknown) in enumerate(zip(known[id_draws], unknown[ood_draws], strict=True)):
        labels, scores = np.r_[np.ones(n), np.zeros(m)], np.r_[drawn_known, drawn_unknown]
        assert auroc[i] == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
        fpr, tpr, _ = roc_curve(labels, scores, drop_intermediate=False)
        assert fpr95[i] == pytest.approx(fpr[tpr >= 0.95 - 1e-9][0], abs=1e-12)
        assert fpr95[i] == pytest.approx(ood_metrics(drawn_known, drawn_unknown).fpr95, abs=1e-12)


def test_the_intervals_are_quantiles_of_the_resamples() -> None:
    known, unknown = gaussians(80, 50, 1)
    fpr95, auroc = resample_metrics(known, unknown, resamples=200, seed=3)
    found = bootstrap_intervals(known, unknown, resamples=200, seed=3, confidence=0.9)
    np.testing.assert_allclose(found.fpr95, np.quantile(fpr95, [0.05, 0.95]), rtol=1e-12)
    np.testing.assert_allclose(found.auroc, np.quantile(auroc, [0.05, 0.95]), rtol=1e-12)


def test_how_much_is_held_at_once_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    known, unknown = gaussians(37, 23, 1)
    at_once = resample_metrics(known, unknown, resamples=30, seed=1)
    monkeypatch.setattr(bootstrap, "HELD", 7 * 60)
    np.testing.assert_array_equal(resample_metrics(known, unknown, resamples=30, seed=1), at_once)
    monkeypatch.setattr(bootstrap, "HELD", 1)
    np.testing.assert_array_equal(resample_metrics(known, unknown, resamples=30, seed=1), at_once)


def test_a_seed_gives_the_same_intervals_and_a_rising_map_changes_nothing() -> None:
    known, unknown = gaussians(80, 50, 2)
    first = bootstrap_intervals(known, unknown)
    assert bootstrap_intervals(np.exp(known), np.exp(unknown)) == first
    assert bootstrap_intervals(known, unknown, seed=1) != first


@pytest.mark.parametrize("decimals", [9, 1])
def test_they_cover_the_truth_about_as_often_as_they_say(decimals: int) -> None:
    """N(1.5, 1) against N(0, 1): AUROC is Φ(1.5 / √2), FPR95 the share of N(0, 1) above 1.5 − 1.645.

    300 experiments. The percentile interval is known to cover a little less than it says on few images, and ties by
    rounding to 0.1 move FPR95 by less than its error.
    """
    rng, covered = np.random.default_rng(5), []
    for _ in range(300):
        found = bootstrap_intervals(*gaussians(200, 200, decimals, rng), resamples=200)
        truth = norm.sf(1.5 - norm.ppf(0.95)), norm.cdf(1.5 / np.sqrt(2))
        covered.append([low <= value <= high for (low, high), value in zip(found, truth, strict=True)])
    share = np.mean(covered, axis=0)
    assert ((share > 0.90) & (share < 0.985)).all(), share


def test_perfect_and_all_tied() -> None:
    assert bootstrap_intervals([2, 3], [0, 1], resamples=50) == ((0, 0), (1, 1))
    assert bootstrap_intervals([1, 1], [1], resamples=50) == ((1, 1), (0.5, 0.5))


@pytest.mark.parametrize(
    ("known", "options", "message"),
    [
        ([], {}, "no ID scores"),
        ([1, np.nan], {}, "1 of 2 ID scores are not finite"),
        ([1], {"resamples": 0}, "resamples = 0"),
        ([1], {"confidence": 1}, "confidence = 1"),
    ],
)
def test_what_has_no_interval(known: list[float], options: dict[str, float], message: str) -> None:
    with pytest.raises(MofeError, match=message):
        bootstrap_intervals(known, [0, 1], **options)


def test_where_nothing_is_said_it_is_1000_resamples_95_percent_and_seed_0() -> None:
    known, unknown = gaussians(40, 30, 2)
    expected = bootstrap_intervals(known, unknown, resamples=1000, confidence=0.95, seed=0)
    assert bootstrap_intervals(known, unknown) == expected
    fpr95, auroc = resample_metrics(known, unknown, resamples=1000, seed=0)
    np.testing.assert_allclose(expected, np.quantile([fpr95, auroc], [0.025, 0.975], axis=1).T, rtol=1e-12)


def test_one_resample_is_an_interval_of_no_width() -> None:
    known, unknown = gaussians(40, 30, 2)
    for low, high in bootstrap_intervals(known, unknown, resamples=1):
        assert low == high


def test_a_side_without_scores_is_named() -> None:
    with pytest.raises(MofeError, match="no OOD scores"):
        bootstrap_intervals([1.0], [])
    with pytest.raises(MofeError, match=r"confidence = 0 must lie in \(0, 1\)"):
        bootstrap_intervals([1.0], [1.0], confidence=0)
