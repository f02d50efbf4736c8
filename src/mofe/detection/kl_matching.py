"""How well the softmax matches a typical one of some class."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from mofe.errors import MofeError


@dataclass(frozen=True, eq=False)
class KLMatching:
    """Minus the divergence from the nearest typical posterior (Hendrycks et al., 2022).

    S = −min_k KL(p ‖ d_k), d_k the mean posterior of the known images that the model takes for class k. No labels are
    needed, and nothing is to be chosen. Classes that no known image is taken for have no typical posterior; the
    official code gives them all mass on k, which nothing is near to. It fits on held-out images; then these look more
    typical than new ones, and no threshold or p-value can be had from them.
    """

    log_typical_KC: Tensor
    """Float64, K ≤ C."""

    @classmethod
    def fit(cls, logits_NC: Tensor) -> Self:
        """From images of known classes; raises MofeError if there are none, or one has no softmax."""
        p_NC = logits_NC.double().softmax(dim=1)
        if not len(p_NC) or bool(p_NC.isnan().any()):
            raise MofeError("typical posteriors need known images, each with logits that have a softmax")
        taken, class_N = p_NC.argmax(dim=1).unique(return_inverse=True)
        sum_KC = p_NC.new_zeros(len(taken), p_NC.shape[1]).index_add_(0, class_N, p_NC)
        typical_KC = sum_KC / sum_KC.sum(dim=1, keepdim=True)
        return cls(typical_KC.clamp(min=torch.finfo(typical_KC.dtype).tiny).log())  # no divergence is infinite

    def score(self, logits_BC: Tensor) -> Tensor:
        """(B,) float64, at most 0 up to rounding."""
        p_BC = logits_BC.to(self.log_typical_KC).softmax(dim=1)
        negative_entropy_B = -torch.special.entr(p_BC).sum(dim=1)
        return (p_BC @ self.log_typical_KC.T).amax(dim=1) - negative_entropy_B
