"""Residual and ViM, which measure a feature's distance from the subspace of the training features.

B images, C classes, D features, K = D − d residual dimensions. At the origin o = −W⁺ b the head's logits vanish. The
residual subspace has the K directions in which the training features' second moment around o is smallest.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from mofe.detection.inputs import check_features, check_head, head_logits, in_parts, wide
from mofe.detection.moments import ClassMoments
from mofe.errors import MofeError


@dataclass(frozen=True, eq=False)
class Residual:
    """Minus the length of the residual (Wang et al., 2022, an ablation of ViM): S(z) = −‖Rᵀ (z − o)‖.

    The official code takes d = 1000 for D ≥ 2048, 512 for D ≥ 768, and D // 2 below.
    """

    origin_D: Tensor
    residual_DK: Tensor

    @classmethod
    def fit(cls, moments: ClassMoments, weight_CD: Tensor, bias_C: Tensor, principal: int | None = None) -> Self:
        """Fit on moments of the features that the head reads.

        Args:
            moments: moments of features that are not normalised.
            weight_CD: weights of the linear head.
            bias_C: biases of the linear head.
            principal: d, the dimensions of the principal subspace; None takes the official code's.

        Raises:
            MofeError: the moments are of normalised features, the head does not fit, or d is not in 1 … D − 1.
        """
        width = len(moments.within_DD)
        weight_CD, bias_C = check_head(weight_CD, bias_C, width)
        if moments.normalise:
            raise MofeError("the residual needs the features that the head reads: do not normalise them")
        if principal is None:
            principal = 1000 if width >= 2048 else 512 if width >= 768 else width // 2
        if not 0 < principal < width:
            raise MofeError(f"a principal subspace of {principal} dimensions must have 1 to {width - 1}")
        # The rows of a head often sum to 0 up to rounding; singular values below float32's precision are not inverted.
        negligible = max(weight_CD.shape) * torch.finfo(torch.float32).eps
        origin_D = -torch.linalg.pinv(weight_CD.to(moments.within_DD), rtol=negligible) @ bias_C.to(moments.within_DD)
        _, vector_DD = torch.linalg.eigh(moments.scatter_around(origin_D))  # ascending
        return cls(origin_D, vector_DD[:, : width - principal].contiguous())

    def score(self, z_BD: Tensor) -> Tensor:
        """Score B images: (B,), at most 0, in the features' precision and at least float32."""
        z_BD = wide(check_features(z_BD, len(self.origin_D)))
        return -_length(z_BD, self.origin_D.to(z_BD), self.residual_DK.to(z_BD))


def _length(z_BD: Tensor, origin_D: Tensor, residual_DK: Tensor) -> Tensor:
    """‖Rᵀ (z − o)‖, (B,)."""
    return in_parts(lambda z_PD: torch.linalg.vector_norm((z_PD - origin_D) @ residual_DK, dim=1), z_BD)


@dataclass(frozen=True, eq=False)
class ViM:
    """Energy minus a virtual logit, which is made from the residual (Wang et al., 2022).

    S(z) = log Σ_c exp(w_c · z + b_c) − α ‖Rᵀ (z − o)‖, with α = Σ_i max_c l_ic / Σ_i ‖Rᵀ (z_i − o)‖ over the training
    images, and d as in :class:`Residual`. The official code fits on 200 000 of ImageNet's training images.
    """

    origin_D: Tensor
    residual_DK: Tensor
    alpha: float
    weight_CD: Tensor
    bias_C: Tensor

    @classmethod
    def fit(
        cls,
        moments: ClassMoments,
        chunks: Iterable[Tensor],
        weight_CD: Tensor,
        bias_C: Tensor,
        principal: int | None = None,
    ) -> Self:
        """Fit on moments, and α on all features or a representative part of them.

        Args:
            moments: moments of features that are not normalised.
            chunks: training features (N, D).
            weight_CD: weights of the linear head.
            bias_C: biases of the linear head.
            principal: d, as in :meth:`Residual.fit`.

        Raises:
            MofeError: as for :meth:`Residual.fit`; or there is no α > 0, because the training features have no residual
                or their largest logits are negative.
        """
        residual = Residual.fit(moments, weight_CD, bias_C, principal)
        weight_CD, bias_C = weight_CD.to(residual.origin_D).contiguous(), bias_C.to(residual.origin_D).contiguous()
        largest = length = total = 0.0
        count = 0
        for chunk_ND in chunks:
            z_ND = chunk_ND.to(weight_CD)
            largest += float(head_logits(z_ND, weight_CD, bias_C).amax(dim=1).sum())
            length -= float(residual.score(z_ND).sum())
            total += float((z_ND - residual.origin_D).norm(dim=1).sum())
            count += len(z_ND)
        of_rounding = float((moments.step_D @ residual.residual_DK.square()).sum().sqrt())
        if length <= max(1e-12 * total, count * of_rounding):
            raise MofeError(
                "the training features lie within the principal subspace, up to rounding: give it fewer dimensions"
            )
        if largest <= 0:
            raise MofeError("the largest logits are negative on average: ViM has no residual to match to them")
        return cls(residual.origin_D, residual.residual_DK, largest / length, weight_CD, bias_C)

    def score(self, z_BD: Tensor) -> Tensor:
        """Score B images: (B,), of either sign, in the features' precision and at least float32."""
        z_BD = wide(check_features(z_BD, len(self.origin_D)))
        energy_B = head_logits(z_BD, self.weight_CD, self.bias_C).logsumexp(dim=1)
        return energy_B - self.alpha * _length(z_BD, self.origin_D.to(z_BD), self.residual_DK.to(z_BD))
