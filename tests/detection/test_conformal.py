"""Conformal p-values keep their promise."""

import numpy as np
import pytest
import torch

from mofe.detection.conformal import conformal_p_values
from mofe.detection.suite import Suite
from mofe.errors import MofeError

RNG = np.random.default_rng(0)


def test_p_values_by_their_definition() -> None:
    validation, new = RNG.normal(size=200), np.r_[RNG.normal(size=50), -1e9, 1e9]
    expected = [(1 + (validation <= s).sum()) / 201 for s in new]
    np.testing.assert_array_equal(conformal_p_values(new, validation), expected)


@pytest.mark.parametrize(("new", "validation"), [([np.nan], [1.0]), ([1.0], [1.0, np.inf]), ([1.0], [])])
def test_what_has_no_p_value_is_refused(new: list[float], validation: list[float]) -> None:
    with pytest.raises(MofeError, match=r"not finite|without scores"):
        conformal_p_values(new, validation)


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


def test_every_fitted_detector_keeps_the_promise_on_the_images_it_is_calibrated_with() -> None:
    """Few held-out images a class: a detector that had learnt them would find new ones less typical."""
    generator = torch.Generator().manual_seed(0)
    means_CD = 0.8 * torch.randn(30, 12, generator=generator)

    def draw(each: int) -> tuple[torch.Tensor, torch.Tensor]:
        labels_N = torch.arange(30).repeat(each)
        return means_CD[labels_N] + torch.randn(len(labels_N), 12, generator=generator), labels_N

    known, head = draw(20), (means_CD, -means_CD.square().sum(1) / 2)
    small: dict[str, list[float]] = {}
    for _ in range(40):
        held, (new_BD, _) = draw(4), draw(10)
        suite, refused = Suite.fit(*known, *held, *head)
        assert not refused
        calibration, scores = suite.score(held[0]), suite.score(new_BD)
        for name in suite.names:
            p_values = conformal_p_values(scores[name], calibration[name])
            small.setdefault(name, []).append(float((p_values <= 0.05).mean()))
    for name, shares in small.items():
        assert np.mean(shares) <= 0.05 + 3 * np.std(shares) / np.sqrt(len(shares)), name
