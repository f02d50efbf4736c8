"""Scores from logits; higher means more in-distribution. All in float32 or better, and probabilities in float64: in
float32 those of sure images are all 1, and tie.

``logits`` is B × K: the outputs of the expert that an image was routed to, −inf at classes of other experts. A last
column "others" takes part in the softmax (its mass is doubt), but is never itself evidence for a known class.
"""

import torch
from torch import Tensor

from mofe.detection.inputs import in_parts, wide


def msp(logits: Tensor, others: Tensor | None = None) -> Tensor:
    """Maximum softmax probability (Hendrycks and Gimpel, 2017): max_c softmax(l)_c.

    Args:
        logits: (B, C) at the known classes.
        others: (B,) logit of "others", which shares the softmax; None where there is none.

    Returns:
        (B,) float64 in (0, 1]; 1 only where all other classes together have less than 1e-16.
    """

    def of_part(logits_PC: Tensor, others_P: Tensor) -> Tensor:
        """1 / (1 + odds): near 1 the odds against the likeliest class have all their digits in float32, too."""
        top_P1, at_P1 = logits_PC.max(dim=1, keepdim=True)
        rest_PC = (logits_PC - top_P1).clamp_(min=-80).exp_().scatter_(1, at_P1, 0)
        against_P = (others_P.double() - top_P1.squeeze(1)).exp()
        return 1 / (1 + rest_PC.sum(dim=1).double() + against_P)

    logits = wide(logits)
    return in_parts(of_part, logits, logits.new_full(logits.shape[:1], -torch.inf) if others is None else others)


def max_logit(logits: Tensor) -> Tensor:
    """Maximum logit (Hendrycks et al., 2022): max_c l_c; (B, C) to (B,)."""
    return logits.float().amax(dim=1)


def energy(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Negative free energy (Liu et al., 2020): T · log Σ_c exp(l_c / T); (B, C) to (B,)."""
    if temperature == 1:  # which spares a copy of the logits
        return logits.float().logsumexp(dim=1)
    return temperature * (logits.float() / temperature).logsumexp(dim=1)


def negative_entropy(logits: Tensor) -> Tensor:
    """Minus the entropy of the softmax (Chan et al., 2021): Σ_c p_c log p_c; (B, C) to (B,) in [−log C, 0]."""

    def of_part(logits_PC: Tensor) -> Tensor:
        gap_PC, rest_PC = _against_the_top(logits_PC)
        odds_P = rest_PC.sum(dim=1)
        weighed_PC = gap_PC.clamp_(min=-1000).mul_(rest_PC)  # e^-1000 is 0, which −∞ must not be multiplied with
        return weighed_PC.sum(dim=1) / (1 + odds_P) - odds_P.log1p()

    return in_parts(of_part, logits).to(torch.promote_types(logits.dtype, torch.float32))


def generalised_entropy(logits: Tensor, gamma: float = 0.1, top: int = 100) -> Tensor:
    """GEN (Liu et al., 2023): −Σ p_c^γ (1 − p_c)^γ over the ``top`` likeliest classes, or all where there are fewer.

    γ = 0.1 and the top 100 are the official code's, for ImageNet. So small an exponent makes much of 1 − p_c near 0,
    which is therefore summed from the other classes and not subtracted.

    Returns:
        (B,), at most 0.
    """

    def of_part(logits_PC: Tensor) -> Tensor:
        _, rest_PC = _against_the_top(logits_PC)
        odds_P1 = rest_PC.sum(dim=1, keepdim=True)
        if top < rest_PC.shape[1]:
            rest_PC = rest_PC.topk(top - 1, dim=1, sorted=False).values
        others_PM = rest_PC.div_(1 + odds_P1)
        of_top_P = (odds_P1 / (1 + odds_P1).square()).pow(gamma).squeeze(1)
        return -(of_top_P + (others_PM * (1 - others_PM)).pow_(gamma).sum(dim=1))

    return in_parts(of_part, logits).to(torch.promote_types(logits.dtype, torch.float32))


def _against_the_top(logits: Tensor) -> tuple[Tensor, Tensor]:
    """l_c − largest, and e to that (B, C) with 0 in the place of the largest.

    In float64: e^-90 is none of float32's normal numbers, and a processor counts with the others very slowly.
    """
    logits = logits.double()
    top_B1, at_B1 = logits.max(dim=1, keepdim=True)
    gap_BC = logits - top_B1
    return gap_BC, gap_BC.exp().scatter_(1, at_B1, 0)
