"""Distances to the decision boundaries of a linear head."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from mofe.detection.inputs import check_features, check_head, head_logits, wide
from mofe.errors import MofeError


@dataclass(frozen=True, eq=False)
class FDBD:
    """fDBD (Liu and Qin, 2024): mean distance to the predicted class's boundaries, over the distance to the mean.

    S(z) = 1 / (C − 1) Σ_{c ≠ ĉ} |l_ĉ − l_c| / (‖w_ĉ − w_c‖ · ‖z − μ‖), with μ the mean training feature. There is no
    hyperparameter. OpenOOD's version also tries ‖z‖ in place of ‖z − μ‖, and sums over c where the paper has the mean.
    """

    mean_D: Tensor
    weight_CD: Tensor
    bias_C: Tensor
    between_CC: Tensor
    """‖w_c − w_c'‖, and 1 on the diagonal."""

    @classmethod
    def fit(cls, mean_D: Tensor, weight_CD: Tensor, bias_C: Tensor) -> Self:
        """Fit on the mean training feature and the head.

        Raises:
            MofeError: the head does not fit the features, has one class, or has two classes of equal weights.
        """
        weight_CD, bias_C = check_head(weight_CD, bias_C, len(mean_D))
        if len(bias_C) < 2:
            raise MofeError("fDBD needs two classes or more: with one there is no boundary")
        mean_D = mean_D.double()
        weight_CD, bias_C = weight_CD.to(mean_D), bias_C.to(mean_D)
        between_CC = torch.cdist(weight_CD, weight_CD, compute_mode="donot_use_mm_for_euclid_dist").fill_diagonal_(1)
        same = (between_CC == 0).nonzero()
        if len(same):
            first, second = same[0].tolist()
            raise MofeError(f"classes {first} and {second} have equal weights in the head: no boundary separates them")
        return cls(mean_D, weight_CD, bias_C, between_CC)

    def score(self, z_BD: Tensor) -> Tensor:
        """Score B images: (B,) ≥ 0, in the features' precision and at least float32; ‖z − μ‖ is clamped at 1e-8."""
        z_BD = wide(check_features(z_BD, len(self.mean_D)))
        logits_BC = head_logits(z_BD, self.weight_CD, self.bias_C)
        top_B, predicted_B = logits_BC.max(dim=1)
        to_boundary_B = ((top_B[:, None] - logits_BC) / self.between_CC.to(z_BD)[predicted_B]).sum(dim=1)
        from_mean_B = torch.linalg.vector_norm(z_BD - self.mean_D.to(z_BD), dim=1).clamp(min=1e-8)
        return to_boundary_B / (from_mean_B * (len(self.bias_C) - 1))
