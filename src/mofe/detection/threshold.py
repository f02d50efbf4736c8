"""Choice of a threshold: by the share of known images to keep, by that of unknown images to accept, or as a number."""

import re

import numpy as np
from numpy.typing import ArrayLike

from mofe.arguments import number
from mofe.detection.metrics import check_scores, threshold_at_tpr
from mofe.errors import MofeError


def chosen_threshold(choice: str | float, validation_n: ArrayLike, unknown_m: ArrayLike | None = None) -> float:
    """The threshold λ for a choice; an image is predicted as known if its score S ≥ λ.

    Args:
        choice: ``tpr=0.95`` (the largest λ that keeps at least this share of the validation images), ``fpr=0.05`` (the
            smallest λ that accepts at most this share of ``unknown_m``), or λ itself, as a number or its text.
        validation_n: scores of known images.
        unknown_m: scores of images of unknown classes; only ``fpr`` needs them.

    Raises:
        MofeError: ``choice`` has none of the three forms, a share is out of range, ``fpr`` has no ``unknown_m``, or a
            score is not finite.
    """
    if not isinstance(choice, str):
        return number("threshold", choice)
    found = re.fullmatch(r"(tpr|fpr)=(.+)|(.+)", choice.strip())
    try:
        kind, value = (found.group(1), float(found.group(2) or found.group(3))) if found else (None, np.nan)
    except ValueError:
        value = np.nan
    if not np.isfinite(value):
        raise MofeError(f"threshold {choice!r} is not tpr=SHARE, fpr=SHARE or a number")
    if kind is None:
        return value
    if kind == "tpr":
        return threshold_at_tpr(validation_n, value)
    if not 0 <= value < 1:
        raise MofeError(f"fpr = {value} must lie in [0, 1)")
    if unknown_m is None:
        raise MofeError(f"threshold {choice} needs images of unknown classes, to measure the share on")
    ordered_m = np.sort(check_scores(unknown_m, "unknown"))
    let_through = int(np.floor(round(value * len(ordered_m), 9)))
    return float(np.nextafter(ordered_m[len(ordered_m) - let_through - 1], np.inf))
