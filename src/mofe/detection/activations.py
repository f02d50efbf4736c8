"""Energy of a linear head after its input is clipped, pruned or scaled, or its weights are pruned.

B images, C classes, D features, all of the layer before the head. The methods were made for features that are at least
0, as after a ReLU. A transformer's features have either sign; each function says what it does with them.
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from mofe.detection.inputs import check_features, check_head, head_logits, in_parts, wide
from mofe.detection.scores import energy
from mofe.errors import MofeError


def head_energy(z_BD: Tensor, weight_CD: Tensor, bias_C: Tensor) -> Tensor:
    """log Σ_c exp(w_c · z + b_c), (B,), the score of every method in this module.

    Raises:
        MofeError: the head does not fit the features, or a feature or weight is not finite.
    """
    return _head_energy(z_BD, *check_head(weight_CD, bias_C, check_features(z_BD).shape[1]))


def _head_energy(z_BD: Tensor, weight_CD: Tensor, bias_C: Tensor) -> Tensor:
    return energy(head_logits(wide(z_BD).to(weight_CD.device), weight_CD, bias_C))


@dataclass(frozen=True)
class ReAct:
    """Energy of activations clipped from above (Sun et al., 2021): z̄ = min(z, t).

    t is a quantile of all activations of the training images together: 0.9 in the official code, 0.99 in ViM's.
    """

    threshold: float

    @classmethod
    def fit(cls, z_ND: Tensor, quantile: float = 0.9) -> Self:
        """Compute the exact quantile. It copies the features; a random part of the images suffices.

        Raises:
            MofeError: there is no feature, one is not finite, or ``quantile`` is outside [0, 1].
        """
        return cls(_quantile(check_features(z_ND), quantile))

    def score(self, z_BD: Tensor, weight_CD: Tensor, bias_C: Tensor) -> Tensor:
        """Score B images: (B,), of either sign."""
        head = check_head(weight_CD, bias_C, check_features(z_BD).shape[1])
        return in_parts(lambda z_PD: _head_energy(wide(z_PD).clamp(max=self.threshold), *head), z_BD)


@dataclass(frozen=True, eq=False)
class DICE:
    """Energy by the weights that contribute most (Sun and Li, 2022).

    A weight w_cd is kept if w_cd μ_d, with μ the mean training feature, is above the ``sparsity`` quantile of all such
    products. The official code has 0.7 for ImageNet and 0.9 for CIFAR.
    """

    weight_CD: Tensor
    """Weights of the head; 0 for those that were dropped."""
    bias_C: Tensor

    @classmethod
    def fit(cls, mean_D: Tensor, weight_CD: Tensor, bias_C: Tensor, sparsity: float = 0.7) -> Self:
        """Prune the head by the mean training feature.

        Raises:
            MofeError: the head does not fit the features, or ``sparsity`` is outside [0, 1].
        """
        weight_CD, bias_C = check_head(weight_CD, bias_C, len(mean_D))
        contribution_CD = weight_CD.double() * mean_D.to(weight_CD.device).double()
        kept_CD = contribution_CD > _quantile(contribution_CD, sparsity)
        return cls(torch.where(kept_CD, weight_CD, 0), bias_C.clone())

    def score(self, z_BD: Tensor) -> Tensor:
        """Score B images: (B,), of either sign."""
        return head_energy(z_BD, self.weight_CD, self.bias_C)


def ash_p(z_BD: Tensor, pruned: float = 0.6) -> Tensor:
    """ASH-P (Djurisic et al., 2023): keeps each image's largest activations, sets the share ``pruned`` to 0; (B, D).

    The paper prunes 0.6 on ImageNet. Raises MofeError if nothing would be kept.
    """
    kept_BK, at_BK = _largest(z_BD, pruned)
    return _in_place(z_BD, at_BK, kept_BK)


def ash_b(z_BD: Tensor, pruned: float = 0.65) -> Tensor:
    """ASH-B (Djurisic et al., 2023): sets each of the K kept activations to Σ_d z_d / K, which keeps the sum; (B, D).

    The paper prunes 0.65 on ImageNet. Raises MofeError if nothing would be kept.
    """
    kept_BK, at_BK = _largest(z_BD, pruned)
    level_BK = (wide(z_BD).sum(dim=1, keepdim=True) / kept_BK.shape[1]).expand_as(kept_BK)
    return _in_place(z_BD, at_BK, level_BK)


def ash_s(z_BD: Tensor, pruned: float = 0.9) -> Tensor:
    """ASH-S (Djurisic et al., 2023): multiplies the kept activations by exp(Σ all / Σ kept); (B, D).

    The paper prunes 0.9 on ImageNet, the official code 0.95 for a vision transformer. If the sum of the kept
    activations is not above 0, the factor is 1. Raises MofeError if nothing would be kept.
    """
    kept_BK, at_BK = _largest(z_BD, pruned)
    return _in_place(z_BD, at_BK, kept_BK * _sharpening(z_BD, kept_BK))


def scale(z_BD: Tensor, pruned: float = 0.85) -> Tensor:
    """SCALE (Xu et al., 2024): multiplies all activations by exp(Σ all / Σ the largest), sets none to 0; (B, D).

    The official code takes the largest 15 %. If their sum is not above 0, the factor is 1. Raises MofeError if there
    would be none.
    """
    return z_BD * _sharpening(z_BD, _largest(z_BD, pruned)[0])


def _largest(z_BD: Tensor, pruned: float) -> tuple[Tensor, Tensor]:
    """Values and columns (B, K) of the K = D − round(D · pruned) largest activations of each image, unordered."""
    width = check_features(z_BD).shape[1]
    kept = width - round(width * pruned)
    if not 0 < kept <= width:
        raise MofeError(f"pruning {pruned} of {width} activations keeps {kept} of them: choose a share in [0, 1)")
    return torch.topk(wide(z_BD), kept, dim=1, sorted=False)


def _in_place(z_BD: Tensor, at_BK: Tensor, values_BK: Tensor) -> Tensor:
    """Features (B, D) with these values in these columns, and 0 elsewhere."""
    return torch.zeros_like(z_BD, dtype=values_BK.dtype).scatter_(1, at_BK, values_BK)


def _sharpening(z_BD: Tensor, kept_BK: Tensor) -> Tensor:
    kept_B1 = kept_BK.sum(dim=1, keepdim=True)
    return torch.where(kept_B1 > 0, (wide(z_BD).sum(dim=1, keepdim=True) / kept_B1).exp(), 1)


def _quantile(values: Tensor, share: float) -> float:
    """NumPy's quantile (linear interpolation), exact for any number of values."""
    if not 0 <= share <= 1:
        raise MofeError(f"a quantile of {share} must lie in [0, 1]")
    if not values.numel():
        raise MofeError("there are no training features to take a quantile of")
    place = share * (values.numel() - 1)
    below = min(int(place), values.numel() - 1)
    low = float(values.flatten().kthvalue(below + 1).values)
    high = float(values.flatten().kthvalue(min(below + 2, values.numel())).values) if place > below else low
    return low + (place - below) * (high - low)
