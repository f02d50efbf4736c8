"""MOS by definition."""

import numpy as np
import pytest
import torch
from scipy.special import softmax

from mofe.detection.mos import mos
from mofe.errors import MofeError

GROUPS = [torch.from_numpy(np.random.default_rng(g).normal(0, 3, (50, size))) for g, size in enumerate((4, 9, 2))]


def test_by_definition() -> None:
    expected = -np.min([softmax(group, axis=1)[:, -1] for group in GROUPS], axis=0)
    np.testing.assert_allclose(mos(GROUPS), expected, rtol=1e-5)


def test_the_order_of_groups_and_a_constant_added_to_one_change_nothing() -> None:
    torch.testing.assert_close(mos([GROUPS[2], GROUPS[0] + 9, GROUPS[1]]), mos(GROUPS))


def test_it_does_not_tie_where_a_group_is_sure() -> None:
    sure = torch.tensor([[gap, 0.0] for gap in (20.0, 40.0, 80.0)])
    assert (mos([sure, 0 * sure]).diff() > 0).all()


@pytest.mark.parametrize("groups", [[], [GROUPS[0][:, :1]]])
def test_what_has_no_others(groups: list[torch.Tensor]) -> None:
    with pytest.raises(MofeError, match="at least one group"):
        mos(groups)


def test_one_class_beside_others_is_a_group() -> None:
    assert mos([torch.zeros(3, 2)]).tolist() == [-0.5] * 3
