"""Conformal p-values keep their promise; thresholds mean what they say."""

import numpy as np
import pytest

from mofe.detection.calibration import chosen_threshold, conformal_p_values
from mofe.errors import MofeError

RNG = np.random.default_rng(0)


def test_p_values_by_their_definition() -> None:
    validation, new = RNG.normal(size=200), np.r_[RNG.normal(size=50), -np.inf, np.inf]
    expected = [(1 + (validation <= s).sum()) / 201 for s in new]
    np.testing.assert_array_equal(conformal_p_values(new, validation), expected)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("n", [19, 199])
def test_of_fresh_known_images_at_most_a_share_alpha_falls_below_alpha(n: int, ties: bool) -> None:
    """The guarantee is over the draw of the validation images too, so both are drawn again 4 000 times."""
    draw = RNG.poisson if ties else RNG.normal
    p_values = np.array([conformal_p_values(draw(3, size=1), draw(3, size=n))[0] for _ in range(4000)])
    for alpha in (0.05, 0.1, 0.5):
        error = np.sqrt(alpha * (1 - alpha) / 4000)
        assert (p_values <= alpha).mean() <= alpha + 3 * error
        if not ties:  # and it wastes no more than the grain of 1 / (n + 1)
            assert (p_values <= alpha).mean() >= alpha - 1 / (n + 1) - 3 * error


def test_a_share_of_known_images_is_kept() -> None:
    validation = np.arange(100.0)
    assert chosen_threshold("tpr=0.95", validation) == 5
    assert chosen_threshold("tpr = 1".replace(" ", ""), validation) == 0
    assert chosen_threshold("-0.25", validation) == -0.25


@pytest.mark.parametrize(("share", "passing"), [(0.0, 0), (0.05, 5), (0.99, 99)])
def test_at_most_a_share_of_unknown_images_is_let_through(share: float, passing: int) -> None:
    unknown = RNG.permutation(np.arange(100.0))
    assert (unknown >= chosen_threshold(f"fpr={share}", [0.0], unknown)).sum() == passing
    tied = np.zeros(100)  # a tied group is let through or not as a whole
    assert (tied >= chosen_threshold(f"fpr={share}", [0.0], tied)).sum() == 0


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ("tpr=1.5", "tpr = 1.5 must lie"),
        ("fpr=0.1", "needs images that are known to be unknown"),
        ("fpr=1", "must lie in"),
        ("recall=0.9", "is none of tpr=SHARE"),
        ("nan", "is none of"),
        ("", "is none of"),
    ],
)
def test_other_wishes_are_refused(wish: str, message: str) -> None:
    unknown = [1.0] if wish == "fpr=1" else None
    with pytest.raises(MofeError, match=message):
        chosen_threshold(wish, [1.0, 2.0], unknown)
