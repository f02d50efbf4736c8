"""Scores from logits; higher means more in-distribution. All in float32 or better, and probabilities in float64: in
float32 those of sure images are all 1, and tie.

``logits`` is B × K: the outputs of the expert that an image was routed to, −inf at classes of other experts. A last
column "others" takes part in the softmax (its mass is doubt), but is never itself evidence for a known class.
"""

import torch
from torch import Tensor

from mofe.detection.inputs import wide


def msp(logits: Tensor, others: Tensor | None = None) -> Tensor:
    """Maximum softmax probability (Hendrycks and Gimpel, 2017): max_c softmax(l)_c.

    Args:
        logits: (B, C) at the known classes.
        others: (B,) logit of "others", which shares the softmax; None where there is none.

    Returns:
        (B,) float64 in (0, 1]; 1 only where all other classes together have less than 1e-16.
    """
    logits = logits.double()
    everything = logits if others is None else torch.cat([logits, others[:, None].to(logits)], dim=1)
    return (logits.amax(dim=1) - everything.logsumexp(dim=1)).exp()


def max_logit(logits: Tensor) -> Tensor:
    """Maximum logit (Hendrycks et al., 2022): max_c l_c; (B, C) to (B,)."""
    return logits.float().amax(dim=1)


def energy(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Negative free energy (Liu et al., 2020): T · log Σ_c exp(l_c / T); (B, C) to (B,)."""
    return temperature * (logits.float() / temperature).logsumexp(dim=1)


def negative_entropy(logits: Tensor) -> Tensor:
    """Minus the entropy of the softmax (Chan et al., 2021): Σ_c p_c log p_c; (B, C) to (B,) in [−log C, 0]."""
    top_B1, rest_BC = _against_the_top(logits)
    gap_BC = torch.where(rest_BC > 0, top_B1 - logits, 0)
    odds_B = rest_BC.sum(dim=1)
    return -(odds_B.log1p() + (rest_BC * gap_BC).sum(dim=1) / (1 + odds_B))


def generalised_entropy(logits: Tensor, gamma: float = 0.1, top: int = 100) -> Tensor:
    """GEN (Liu et al., 2023): −Σ p_c^γ (1 − p_c)^γ over the ``top`` likeliest classes, or all where there are fewer.

    γ = 0.1 and the top 100 are the official code's, for ImageNet. So small an exponent makes much of 1 − p_c near 0,
    which is therefore summed from the other classes and not subtracted.

    Returns:
        (B,), at most 0.
    """
    _, rest_BC = _against_the_top(logits)
    odds_B1 = rest_BC.sum(dim=1, keepdim=True)
    others_BM = rest_BC.topk(min(top, rest_BC.shape[1]) - 1, dim=1).values / (1 + odds_B1)
    of_top_B = (odds_B1 / (1 + odds_B1).square()).pow(gamma).squeeze(1)
    return -(of_top_B + (others_BM * (1 - others_BM)).pow(gamma).sum(dim=1))


def _against_the_top(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The largest logit (B, 1), and e^(l_c − largest) (B, C) with 0 in its own place; float32 or better."""
    logits = wide(logits)
    top_B1, at_B1 = logits.max(dim=1, keepdim=True)
    return top_B1, (logits - top_B1).exp().scatter(1, at_B1, 0)
