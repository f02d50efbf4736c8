"""Conformal p-values keep their promise."""

import numpy as np
import pytest

from mofe.detection.conformal import conformal_p_values

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
