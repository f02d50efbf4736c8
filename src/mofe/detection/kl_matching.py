"""Match of the softmax with the typical softmax of a class."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from mofe.errors import MofeError


@dataclass(frozen=True, eq=False)
class KLMatching:
    """Minus the divergence from the nearest typical posterior (Hendrycks et al., 2022).

    S = −min_k KL(p ‖ d_k), with d_k the mean posterior of the known images that are predicted as class k. No labels are
    needed, and there is no hyperparameter. A class that no known image is predicted as has no typical posterior; the
    official code puts all its mass on k, which no image is near. The official code fits on held-out images. These then
    look more typical than new images, and cannot give a threshold or p-values.
    """

    log_typical_KC: Tensor
    """Logarithm of the typical posteriors, float64, K ≤ C."""

    @classmethod
    def fit(cls, logits_NC: Tensor) -> Self:
        """Fit on images of known classes; raises MofeError if there are none, or one has no softmax."""
        p_NC = logits_NC.double().softmax(dim=1)
        if not len(p_NC) or bool(p_NC.isnan().any()):
            raise MofeError("typical posteriors need known images, each with logits that have a softmax")
        taken, class_N = p_NC.argmax(dim=1).unique(return_inverse=True)
        sum_KC = p_NC.new_zeros(len(taken), p_NC.shape[1]).index_add_(0, class_N, p_NC)
        typical_KC = sum_KC / sum_KC.sum(dim=1, keepdim=True)
        return cls(typical_KC.clamp(min=torch.finfo(typical_KC.dtype).tiny).log())  # keeps divergences finite

    def score(self, logits_BC: Tensor) -> Tensor:
        """Score B images: (B,) float64, at most 0 up to rounding."""
        p_BC = logits_BC.to(self.log_typical_KC).softmax(dim=1)
        negative_entropy_B = -torch.special.entr(p_BC).sum(dim=1)
        return (p_BC @ self.log_typical_KC.T).amax(dim=1) - negative_entropy_B
