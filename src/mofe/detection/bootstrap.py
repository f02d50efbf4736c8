"""Bootstrap confidence intervals of FPR95 and AUROC.

N ID images, M OOD images, R resamples, K distinct scores. A resample draws N ID images and M OOD images independently,
with replacement (Efron, 1979). It is held as counts of the distinct scores. From these, cumulative sums give FPR95 and
AUROC exactly, with tied images together. As many resamples are computed at once as :data:`HELD` allows. The intervals
cover the draw of the test images, not the draw of the training images or the seed.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from mofe.arguments import number, whole
from mofe.detection.metrics import check_scores, kept_at_tpr
from mofe.errors import MofeError

HELD = 2**22
"""Number of drawn images and counts that are held at once, 8 bytes each, in a few arrays."""


class Interval(NamedTuple):
    low: float
    high: float


class Intervals(NamedTuple):
    """Intervals of the metrics of :func:`mofe.detection.metrics.ood_metrics`, ID positive; fractions in [0, 1]."""

    fpr95: Interval
    auroc: Interval


def bootstrap_intervals(
    id_scores: ArrayLike,
    ood_scores: ArrayLike,
    *,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Intervals:
    """Compute percentile intervals, which hold the middle share ``confidence`` of the resamples.

    Args:
        id_scores: scores (N,) of ID images, higher = more in-distribution.
        ood_scores: scores (M,) of OOD images.
        resamples: R.
        confidence: share of resamples inside an interval.
        seed: seed of the resamples; the same seed gives the same intervals.

    Raises:
        MofeError: a side is empty or holds NaN or infinity, R < 1, or ``confidence`` is not in (0, 1).
    """
    if not 0 < number("confidence", confidence) < 1:
        raise MofeError(f"confidence = {confidence} must lie in (0, 1)")
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    fpr95_R, auroc_R = resample_metrics(id_scores, ood_scores, resamples=resamples, seed=seed)
    return Intervals(*(Interval(*np.quantile(metric_R, tails).tolist()) for metric_R in (fpr95_R, auroc_R)))


def resample_metrics(
    id_scores: ArrayLike, ood_scores: ArrayLike, *, resamples: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """FPR95 and AUROC of each resample, (R,) each.

    Resample r takes row r of ``Generator.integers(N, size=(R, N))`` and of ``integers(M, size=(R, M))``, from the two
    generators that ``numpy.random.default_rng(seed)`` spawns. Arguments and errors are those of
    :func:`bootstrap_intervals`.
    """
    resamples, seed = whole("resamples", resamples, 1), whole("seed", seed)
    positive, negative = check_scores(id_scores, "ID"), check_scores(ood_scores, "OOD")
    n, m = len(positive), len(negative)
    distinct_K, place = np.unique(np.r_[positive, negative], return_inverse=True)
    id_rng, ood_rng = np.random.default_rng(seed).spawn(2)
    kept = kept_at_tpr(n, 0.95)
    fpr95, auroc = [], []
    at_once = max(1, HELD // (n + m))
    for start in range(0, resamples, at_once):
        rows = min(at_once, resamples - start)
        id_RK = _counts(id_rng, place[:n], rows, len(distinct_K))
        ood_RK = _counts(ood_rng, place[n:], rows, len(distinct_K))
        threshold_R1 = (id_RK[:, ::-1].cumsum(axis=1) >= kept).argmax(axis=1)[:, None]
        accepted_R1 = np.take_along_axis(ood_RK[:, ::-1].cumsum(axis=1), threshold_R1, axis=1)
        below_twice_RK = 2 * ood_RK.cumsum(axis=1) - ood_RK  # a tie counts half
        fpr95.append(accepted_R1[:, 0] / m)
        auroc.append((id_RK * below_twice_RK).sum(axis=1) / (2 * n * m))
    return np.concatenate(fpr95), np.concatenate(auroc)


def _counts(rng: np.random.Generator, place_N: np.ndarray, rows: int, width: int) -> np.ndarray:
    """Counts of each distinct score in each resample, (rows, width)."""
    drawn_RN = place_N[rng.integers(len(place_N), size=(rows, len(place_N)))]
    return np.bincount((drawn_RN + width * np.arange(rows)[:, None]).ravel(), minlength=rows * width).reshape(rows, -1)
