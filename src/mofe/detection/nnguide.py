"""NNGuide, the energy guided by the nearest neighbours."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from mofe.detection.inputs import check_features, unit
from mofe.detection.scores import energy
from mofe.errors import MofeError


@dataclass(frozen=True, eq=False)
class NNGuide:
    """NNGuide (Park et al., 2023): S = E(x) · mean of the k largest ẑ · E(x_i) ẑ_i over a bank of training images.

    E = log Σ_c exp(l_c), ẑ = z / ‖z‖. The official code has k = 10 and, for ImageNet, a random 1 % of the training
    images as the bank; OpenOOD has k = 100. With fewer than k images in the bank, all are used.
    """

    bank_ND: Tensor
    """E(x_i) ẑ_i, float32 or better."""
    k: int

    @classmethod
    def fit(cls, z_ND: Tensor, logits_NC: Tensor, k: int = 10) -> Self:
        """Build the bank from features and logits; raises MofeError if there are none, one is invalid, or k < 1."""
        if k < 1:
            raise MofeError(f"k = {k} must be at least 1")
        if not len(z_ND):
            raise MofeError("there are no training features: NNGuide needs them to search for neighbours")
        return cls((unit(check_features(z_ND)) * energy(logits_NC)[:, None]).contiguous(), k)

    def score(self, z_BD: Tensor, logits_BC: Tensor) -> Tensor:
        """Score B images: (B,), float32 or better, of either sign; at most 1024 × 32 768 products are held."""
        z_BD = unit(check_features(z_BD, self.bank_ND.shape[1]).to(self.bank_ND))
        guidance_B = torch.cat([self._guidance(part_bD) for part_bD in z_BD.split(1024)])
        return guidance_B * energy(logits_BC).to(guidance_B)

    def _guidance(self, z_bD: Tensor) -> Tensor:
        nearest_bk = z_bD.new_empty(len(z_bD), 0)
        for bank_nD in self.bank_ND.split(32_768):
            nearest_bn = (z_bD @ bank_nD.T).topk(min(self.k, len(bank_nD)), sorted=False).values
            nearest_bk = torch.cat([nearest_bk, nearest_bn], dim=1)
            nearest_bk = nearest_bk.topk(min(self.k, nearest_bk.shape[1]), sorted=False).values
        return nearest_bk.mean(dim=1)
