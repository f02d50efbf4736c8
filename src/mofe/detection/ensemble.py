"""Averages of several classifiers' predictions."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mofe.errors import MofeError


def mean_softmax(logits: Sequence[Tensor]) -> Tensor:
    """COOkeD's prediction (Humblot-Renaux et al., 2025): the mean of the members' softmax, (B, C) float64.

    The official members are CLIP's zero-shot classifier at logit scale 100, a linear probe on CLIP's image features
    without normalisation, and a classifier trained on the images.

    Args:
        logits: logits (B, C) of each member, at the member's own scale.

    Raises:
        MofeError: there is no member, or the members differ in their numbers of classes or images.
    """
    if not logits or len({member.shape for member in logits}) > 1:
        raise MofeError(f"the members of an ensemble need logits of one shape, not {[tuple(m.shape) for m in logits]}")
    return torch.stack([member.double().softmax(dim=1) for member in logits]).mean(dim=0)


def cooked(logits: Sequence[Tensor]) -> Tensor:
    """Minus the entropy of :func:`mean_softmax`, the official code's headline score: (B,) in [−log C, 0]."""
    return -torch.special.entr(mean_softmax(logits)).sum(dim=1)


def cooked_msp(logits: Sequence[Tensor]) -> Tensor:
    """The maximum of :func:`mean_softmax`: (B,) in (0, 1]."""
    return mean_softmax(logits).amax(dim=1)
