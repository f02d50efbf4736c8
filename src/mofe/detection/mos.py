"""MOS, the minimum "others" score of a softmax in groups."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mofe.errors import MofeError


def mos(group_logits: Sequence[Tensor]) -> Tensor:
    """MOS (Huang and Li, 2021): S = max_g −softmax(l_g)["others"], the score of the group with the least "others".

    The official groups for ImageNet are eight of WordNet's, of 398, 521, 9, 7, 52, 8, 3 and 2 classes. In the official
    code "others" is first in a group, here it is last.

    Args:
        group_logits: logits (B, Q_g + 1) of each group g, "others" last; groups may differ in size.

    Returns:
        Scores (B,), float64 in [−1, 0].

    Raises:
        MofeError: there is no group, or a group has no class besides "others".
    """
    if not group_logits or any(logits.shape[1] < 2 for logits in group_logits):
        raise MofeError('MOS needs at least one group, each with logits of its classes and of "others"')
    others_BG = torch.stack([logits.double().softmax(dim=1)[:, -1] for logits in group_logits], dim=1)
    return -others_BG.amin(dim=1)
