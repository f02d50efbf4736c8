"""COOkeD by definition."""

import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import entropy

from mofe.detection.ensemble import cooked, cooked_msp, mean_softmax
from mofe.detection.scores import msp
from mofe.errors import MofeError

MEMBERS = [torch.from_numpy(np.random.default_rng(i).normal(0, 4, (40, 7))).float() for i in range(3)]


def test_by_definition() -> None:
    mean = np.mean([softmax(member.double(), axis=1) for member in MEMBERS], axis=0)
    np.testing.assert_allclose(mean_softmax(MEMBERS), mean, rtol=1e-10)
    np.testing.assert_allclose(cooked(MEMBERS), -entropy(mean, axis=1), rtol=1e-10)
    np.testing.assert_allclose(cooked_msp(MEMBERS), mean.max(1), rtol=1e-10)


def test_the_order_of_members_and_a_constant_added_to_one_change_nothing() -> None:
    changed = [MEMBERS[2], MEMBERS[0].double() + 90, MEMBERS[1]]
    torch.testing.assert_close(cooked(changed), cooked(MEMBERS))


def test_alone_it_is_its_members_msp() -> None:
    torch.testing.assert_close(cooked_msp(MEMBERS[:1]).float(), msp(MEMBERS[0]).float())


@pytest.mark.parametrize("members", [[], [MEMBERS[0], MEMBERS[1][:, 1:]]])
def test_what_is_no_ensemble(members: list[torch.Tensor]) -> None:
    with pytest.raises(MofeError, match="logits of one shape"):
        cooked(members)
