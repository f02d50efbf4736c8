"""Metrics of a score that separates in-distribution (ID) from out-of-distribution (OOD) images; higher means more ID.

Conventions. ID is the positive class. λ is the largest threshold that keeps at least 95 % of the ID images, and FPR95
the share of OOD images with S ≥ λ, as in MOS, MCM, KNN-OOD and the MoFE paper. OpenOOD and pytorch-ood take OOD as
positive; that figure is ``fpr95_ood_positive``. Images of equal score are accepted or rejected together. Everything is
in float64.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from sklearn.metrics import roc_curve

from mofe.arguments import array, number, text, whole
from mofe.errors import MofeError


@dataclass(frozen=True)
class OODMetrics:
    """Metrics of one score; fractions in [0, 1]."""

    fpr95: float
    """Share of OOD images accepted as ID at the threshold that keeps 95 % of ID images. Lower is better."""
    auroc: float
    """Probability that an ID image scores higher than an OOD image, ties counting half."""
    aupr_in: float
    """Average precision with ID positive."""
    aupr_out: float
    """Average precision with OOD positive, under the negated score."""
    fpr95_ood_positive: float
    """Share of ID images rejected at the threshold that rejects 95 % of OOD images, OpenOOD's FPR@95."""


class ROC(NamedTuple):
    """Points of a ROC curve with ID positive, from the highest threshold to the lowest."""

    fpr: np.ndarray
    tpr: np.ndarray
    thresholds: np.ndarray


def ood_metrics(id_scores: ArrayLike, ood_scores: ArrayLike) -> OODMetrics:
    """Compute the metrics from the scores of ID and OOD images.

    Every figure is a sum over the K distinct scores. The summands are numbers of images with the score (``_K``), with
    it or a higher one (``_from_K``), and with it or a lower one (``_to_K``). This takes one sort, where scikit-learn's
    functions take four.

    Args:
        id_scores: scores (N,) of ID images.
        ood_scores: scores (M,) of OOD images.

    Raises:
        MofeError: a side is empty or holds NaN or infinity.
    """
    positive, negative = check_scores(id_scores, "ID"), check_scores(ood_scores, "OOD")
    n, m = len(positive), len(negative)
    distinct_K, place = np.unique(np.r_[positive, negative], return_inverse=True)
    id_K, ood_K = (np.bincount(side, minlength=len(distinct_K)) for side in (place[:n], place[n:]))
    id_from_K, ood_from_K = id_K[::-1].cumsum()[::-1], ood_K[::-1].cumsum()[::-1]
    id_to_K, ood_to_K = id_K.cumsum(), ood_K.cumsum()
    largest = np.count_nonzero(id_from_K >= kept_at_tpr(n, 0.95)) - 1
    smallest = np.searchsorted(ood_to_K, kept_at_tpr(m, 0.95))
    return OODMetrics(
        fpr95=float(ood_from_K[largest] / m),
        auroc=float(id_K @ (ood_to_K - ood_K / 2) / (n * m)),
        aupr_in=float(id_K @ (id_from_K / (id_from_K + ood_from_K)) / n),
        aupr_out=float(ood_K @ (ood_to_K / (id_to_K + ood_to_K)) / m),
        fpr95_ood_positive=float(id_to_K[smallest] / n),
    )


def threshold_at_tpr(id_scores: ArrayLike, tpr: float = 0.95) -> float:
    """The largest threshold λ that at least a share ``tpr`` of the scores reaches (S ≥ λ).

    Raises:
        MofeError: there are no scores, a score is not finite, or ``tpr`` is outside (0, 1].
    """
    number("tpr", tpr, 0, 1, above=True)
    scores = check_scores(id_scores, "ID")
    return float(np.sort(scores)[len(scores) - kept_at_tpr(len(scores), tpr)])


def kept_at_tpr(count: int, tpr: float) -> int:
    """The smallest number of images that is at least a share ``tpr`` of ``count``."""
    count, tpr = whole("count", count), number("tpr", tpr, 0, 1)
    return max(1, int(np.ceil(round(tpr * count, 9))))  # 0.55 · 100 is 55, not the next above 55.00000000000001


def roc_points(id_scores: ArrayLike, ood_scores: ArrayLike, most: int = 200) -> ROC:
    """ROC curve of at most ``most`` points, evenly along the curve, with its ends; all values are finite.

    Raises:
        MofeError: as :func:`ood_metrics`, or ``most`` is below 2.
    """
    most = whole("most", most, 2, 1 << 24)
    positive, negative = check_scores(id_scores, "ID"), check_scores(ood_scores, "OOD")
    is_id = np.r_[np.ones(len(positive), int), np.zeros(len(negative), int)]
    fpr, tpr, thresholds = roc_curve(is_id, np.r_[positive, negative])
    thresholds[0] = np.nextafter(thresholds[1], np.inf)  # scikit-learn begins at infinity
    if len(fpr) > most:
        along = fpr + tpr  # grows from 0 to 2
        keep = np.unique(np.searchsorted(along, np.linspace(0, 2, most)).clip(max=len(fpr) - 1))
        fpr, tpr, thresholds = fpr[keep], tpr[keep], thresholds[keep]
    return ROC(fpr, tpr, thresholds)


def check_scores(scores: ArrayLike, side: str) -> np.ndarray:
    """Return one side's scores as a vector of float64; raises MofeError if there are none, or one is not finite."""
    values = np.asarray(array(f"{text('side', side)} scores", scores), np.float64).ravel()
    if not len(values):
        raise MofeError(f"there are no {side} scores to evaluate")
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise MofeError(f"{len(bad)} of {len(values)} {side} scores are not finite, the first at position {bad[0]}")
    return values
