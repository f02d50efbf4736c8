"""The list of scores, which is read without torch, is that of the detectors."""

import pytest

from mofe.artifacts.score_names import ALL, IN_SPACES, OWN
from mofe.detection.spaces import ExpertSpace
from mofe.detection.suite import FITTED, UNFITTED
from mofe.errors import MofeError
from mofe.inference.detector import SCORES
from mofe.parameters.rules import check_values


def test_it_is_that_of_the_detectors() -> None:
    suite = {*UNFITTED, *FITTED}
    assert OWN == SCORES
    assert {*IN_SPACES["pretrained"]} == suite | {"knn"}
    assert {*IN_SPACES["tuned"]} == suite | {"knn", "mos"}
    assert {*IN_SPACES["expert"]} == suite
    assert ExpertSpace.of([], IN_SPACES["expert"]).names == tuple(f"expert.{name}" for name in IN_SPACES["expert"])
    assert len({*ALL}) == len(ALL)


@pytest.mark.parametrize("score", ["knn", "tuned.vim", "pretrained.mahalanobis++", "text.mcm", "expert.she"])
def test_a_score_that_exists_is_taken(score: str) -> None:
    check_values({"score": score}, "here")


@pytest.mark.parametrize("score", ["knm", "vim", "tuned.mim", "", "expert.knn", "tuned"])
def test_a_score_that_does_not_exist_is_refused_before_any_work(score: str) -> None:
    with pytest.raises(MofeError, match=rf"here: score = '{score}' is not one of knn, msp, max_logit, energy, or pre"):
        check_values({"score": score}, "here")
