"""The metrics against brute force, scikit-learn, and pytorch-ood on the same arrays."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_ood.metrics import OODMetrics as TheirMetrics
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from mofe.detection import ood_metrics
from mofe.detection.metrics import check_scores, roc_points, threshold_at_tpr
from mofe.errors import MofeError


def gaussians(n: int, m: int, decimals: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    known, unknown = rng.normal(1.5, 1, n), rng.normal(0, 1.3, m)
    return (known, unknown) if decimals is None else (known.round(decimals), unknown.round(decimals))


def brute_force(known: np.ndarray, unknown: np.ndarray) -> tuple[float, float]:
    """FPR95 and AUROC from their definitions: every threshold, every pair."""
    kept = [t for t in np.unique(known) if 20 * (known >= t).sum() >= 19 * len(known)]  # 95 %, in whole numbers
    pairs = (known[:, None] > unknown).mean() + 0.5 * (known[:, None] == unknown).mean()
    return float((unknown >= max(kept)).mean()), float(pairs)


@pytest.mark.parametrize("decimals", [None, 1, 0])
def test_against_brute_force_and_scikit_learn(decimals: int | None) -> None:
    known, unknown = gaussians(700, 400, decimals)
    ours = ood_metrics(known, unknown)
    fpr95, auroc = brute_force(known, unknown)
    labels, scores = np.r_[np.ones(700), np.zeros(400)], np.r_[known, unknown]
    assert ours.fpr95 == pytest.approx(fpr95, abs=1e-12)
    assert ours.auroc == pytest.approx(auroc, abs=1e-12)
    assert ours.auroc == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert ours.aupr_in == pytest.approx(average_precision_score(labels, scores), abs=1e-12)
    assert ours.aupr_out == pytest.approx(average_precision_score(1 - labels, -scores), abs=1e-12)
    assert ours.fpr95_ood_positive == pytest.approx(brute_force(-unknown, -known)[0], abs=1e-12)
    for found, positive, sign in ((ours.fpr95, labels, 1), (ours.fpr95_ood_positive, 1 - labels, -1)):
        fpr, tpr, _ = roc_curve(positive, sign * scores, drop_intermediate=False)
        assert found == pytest.approx(fpr[tpr >= 0.95 - 1e-9][0], abs=1e-12)


@pytest.mark.parametrize("decimals", [None, 1, 0])
def test_against_pytorch_ood(decimals: int | None) -> None:
    """Theirs takes OOD (label −1) as positive and higher scores as more OOD.

    Their AUPR joins the points of the curve by straight lines, which flatters where scores tie; ours is the average
    precision, so only without ties do the two agree.
    """
    known, unknown = gaussians(5000, 2000, decimals)
    ours = ood_metrics(known, unknown)
    theirs = TheirMetrics()
    scores = torch.from_numpy(np.r_[-known, -unknown])
    theirs.update(scores, torch.cat([torch.zeros(5000), -torch.ones(2000)]).int())
    found = theirs.compute()
    assert ours.auroc == pytest.approx(found["AUROC"], abs=1e-12)
    assert ours.fpr95_ood_positive == pytest.approx(found["FPR95TPR"], abs=1e-12)
    swapped = TheirMetrics()  # with the roles exchanged it gives the ID-positive figure
    swapped.update(-scores, torch.cat([-torch.ones(5000), torch.zeros(2000)]).int())
    assert ours.fpr95 == pytest.approx(swapped.compute()["FPR95TPR"], abs=1e-12)
    for our_area, their_area in ((ours.aupr_in, found["AUPR-IN"]), (ours.aupr_out, found["AUPR-OUT"])):
        assert our_area == pytest.approx(their_area, abs=1e-4) if decimals is None else our_area < their_area
    assert abs(ours.fpr95 - ours.fpr95_ood_positive) > 0.05  # the two conventions are far apart here


def test_the_threshold_keeps_exactly_95_of_100() -> None:
    assert threshold_at_tpr(np.arange(100)) == 5
    assert threshold_at_tpr(np.arange(20)) == 1  # 19 of 20
    assert threshold_at_tpr(np.arange(19)) == 0  # 18 of 19 would be 94.7 %
    assert threshold_at_tpr([3.0]) == 3
    assert threshold_at_tpr(np.arange(10), 0.5) == 5
    assert threshold_at_tpr(np.arange(100), 0.55) == 45  # though 0.55 · 100 is 55.00000000000001


@pytest.mark.parametrize("tpr", [0.0, -0.1, 1.5])
def test_a_share_that_no_threshold_keeps_is_refused(tpr: float) -> None:
    with pytest.raises(MofeError, match=rf"tpr = {tpr} must lie in \(0, 1\]"):
        threshold_at_tpr([1.0, 2.0], tpr)


@pytest.mark.parametrize(
    ("attempt", "message"),
    [
        (lambda: threshold_at_tpr([]), "no ID scores"),
        (lambda: roc_points([], [1.0]), "no ID scores"),
        (lambda: roc_points([1.0], []), "no OOD scores"),
    ],
)
def test_the_side_without_scores_is_named(attempt: Callable[[], object], message: str) -> None:
    with pytest.raises(MofeError, match=message):
        attempt()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.int64])
def test_scores_of_any_precision_are_compared_in_float64(dtype: type) -> None:
    assert check_scores(np.ones((2, 1), dtype), "ID").dtype == np.float64
    assert roc_points(np.array([2, 3], dtype), np.array([0, 1], dtype)).thresholds.dtype == np.float64


def test_ties_stand_or_fall_together() -> None:
    assert ood_metrics(np.ones(10), np.ones(5)).fpr95 == 1
    assert ood_metrics(np.ones(10), np.ones(5)).auroc == 0.5
    known = np.r_[np.zeros(2), np.ones(18)]  # 18 of 20 are too few, so the group at 0 is let in
    assert ood_metrics(known, [0.0, 0.5, -1.0]).fpr95 == pytest.approx(2 / 3)


def test_perfect_and_hopeless() -> None:
    perfect, hopeless = ood_metrics([2, 3], [0, 1]), ood_metrics([0, 1], [2, 3])
    assert (perfect.fpr95, perfect.auroc, perfect.aupr_in) == (0, 1, 1)
    assert (hopeless.fpr95, hopeless.auroc) == (1, 0)


finite = st.floats(-1e6, 1e6, allow_subnormal=False)


@given(st.lists(finite, min_size=1, max_size=40), st.lists(finite, min_size=1, max_size=40))
@settings(max_examples=150, deadline=None)
def test_any_scores(known: list[float], unknown: list[float]) -> None:
    ours = ood_metrics(known, unknown)
    fpr95, auroc = brute_force(np.array(known), np.array(unknown))
    assert ours.fpr95 == pytest.approx(fpr95, abs=1e-12)
    assert ours.auroc == pytest.approx(auroc, abs=1e-12)
    doubled = ood_metrics(2 * np.array(known), 2 * np.array(unknown))  # a strictly rising map changes nothing
    assert doubled == ours


@pytest.mark.parametrize(
    ("known", "unknown", "message"),
    [
        ([], [1], "no ID scores"),
        ([1], [], "no OOD scores"),
        ([1, np.nan], [1], "1 of 2 ID.*position 1"),
        ([1], [np.inf], "OOD"),
    ],
)
def test_what_has_no_answer(known: list[float], unknown: list[float], message: str) -> None:
    with pytest.raises(MofeError, match=message):
        ood_metrics(known, unknown)


def test_roc_points_are_few_finite_and_on_the_curve() -> None:
    known, unknown = gaussians(20_000, 9_000)
    curve = roc_points(known, unknown)
    assert len(curve.fpr) <= 200
    assert all(np.isfinite(values).all() for values in curve)
    assert (curve.fpr[0], curve.tpr[0], curve.fpr[-1], curve.tpr[-1]) == (0, 0, 1, 1)
    for fpr, tpr, threshold in zip(*curve, strict=True):
        assert fpr == pytest.approx((unknown >= threshold).mean())
        assert tpr == pytest.approx((known >= threshold).mean())
    area = np.trapezoid(curve.tpr, curve.fpr)
    assert area == pytest.approx(ood_metrics(known, unknown).auroc, abs=1e-3)


def staircase(steps: int) -> tuple[np.ndarray, np.ndarray]:
    """ID and OOD scores that take turns, so that each image is a corner of the curve: 2 · steps points, and (0, 0)."""
    return 2.0 * np.arange(steps) + 1, 2.0 * np.arange(steps)


def test_a_thinned_curve_has_its_points_evenly_along_it() -> None:
    curve = roc_points(*staircase(1000))
    along = curve.fpr + curve.tpr
    assert len(along) == 200
    assert np.diff(along).max() <= 2 / 199 + 2 / 1000  # to the next corner, at most two images away


def test_a_curve_of_as_many_points_as_are_allowed_is_whole() -> None:
    known, unknown = np.r_[staircase(20)[0], 100 + np.arange(980)], np.r_[staircase(20)[1], np.zeros(80) - 1]
    whole = roc_points(known, unknown, most=10**6)
    as_many = roc_points(known, unknown, most=len(whole.fpr))
    for ours, theirs in zip(as_many, whole, strict=True):
        np.testing.assert_array_equal(ours, theirs)
