"""Thresholds mean what they say."""

import numpy as np
import pytest

from mofe.detection.threshold import chosen_threshold
from mofe.errors import MofeError

RNG = np.random.default_rng(0)


def test_a_share_of_known_images_is_kept() -> None:
    validation = np.arange(100.0)
    assert chosen_threshold("tpr=0.95", validation) == 5
    assert chosen_threshold("tpr = 1".replace(" ", ""), validation) == 0
    assert chosen_threshold("-0.25", validation) == -0.25
    assert chosen_threshold("tpr=1e-12", validation) == 99, "one image at least"


@pytest.mark.parametrize(("share", "passing"), [(0.0, 0), (0.05, 5), (0.99, 99)])
def test_at_most_a_share_of_unknown_images_is_let_through(share: float, passing: int) -> None:
    unknown = RNG.permutation(np.arange(100.0))
    assert (unknown >= chosen_threshold(f"fpr={share}", [0.0], unknown)).sum() == passing
    tied = np.zeros(100)  # a tied group is let through or not as a whole
    assert (tied >= chosen_threshold(f"fpr={share}", [0.0], tied)).sum() == 0


@pytest.mark.parametrize(("share", "passing"), [(0.29, 29), (0.057, 5), (0.0999, 9)])
def test_a_share_between_two_counts_lets_through_the_smaller(share: float, passing: int) -> None:
    """Of 100 images 0.29 is 29, though 0.29 · 100 is 28.999999999999996; 0.057 is 5, for 6 would be more than that."""
    unknown = np.arange(100.0)
    assert (unknown >= chosen_threshold(f"fpr={share}", [0.0], unknown)).sum() == passing


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ("tpr=1.5", "tpr = 1.5 must lie"),
        ("fpr=0.1", "needs images of unknown classes"),
        ("fpr=1", "must lie in"),
        ("recall=0.9", "is not tpr=SHARE"),
        ("nan", "is not tpr=SHARE"),
        ("", "is not tpr=SHARE"),
    ],
)
def test_other_wishes_are_refused(wish: str, message: str) -> None:
    unknown = [1.0] if wish == "fpr=1" else None
    with pytest.raises(MofeError, match=message):
        chosen_threshold(wish, [1.0, 2.0], unknown)


@pytest.mark.parametrize("unknown", [[], [1.0, float("nan")]])
def test_a_share_of_no_scores_is_refused(unknown: list[float]) -> None:
    with pytest.raises(MofeError, match=r"no unknown scores|not finite"):
        chosen_threshold("fpr=0.05", [1.0], unknown)
