"""Scores from logits; higher means more in-distribution.

Scores are in float32 or better. Probabilities are in float64, because in float32 those of confident images are all 1,
and tie.

Each raises :class:`MofeError` where its arguments are not tensors of that form, or a number is out of range.

``logits`` is B × K: the outputs of the expert that an image was routed to, −inf at classes of other experts. A last
column "others" is part of the softmax and lowers the known classes' probabilities, but is never itself a score.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import softplus

from mofe.arguments import number, same_length, tensor, whole
from mofe.detection.inputs import PART, check_logits, in_parts, wide


def msp(logits: Tensor, others: Tensor | None = None, temperature: float = 1.0) -> Tensor:
    """Maximum softmax probability (Hendrycks and Gimpel, 2017): max_c softmax(l / T)_c.

    Args:
        logits: (B, C) at the known classes.
        others: (B,) logit of "others", which is part of the softmax; None if there is none.
        temperature: T.

    Returns:
        Scores (B,), float64 in (0, 1]; 1 only if all other classes together have less than 1e-16.
    """

    def total(logits_PC: Tensor, others_P: Tensor | None = None) -> Tensor:
        """Σ e^(l − largest), (P,), in float64 to keep small terms beside the largest term, which is 1."""
        top_P1 = logits_PC.amax(dim=1, keepdim=True)
        gap_PC = torch.sub(logits_PC, top_P1, out=room_PC[: len(logits_PC)])
        known_P = gap_PC.div_(temperature).clamp_(min=_least(gap_PC)).exp_().sum(dim=1, dtype=torch.float64)
        return known_P if others_P is None else known_P + ((others_P.double() - top_P1[:, 0]) / temperature).exp()

    logits = wide(check_logits(logits, temperature)).detach()
    if others is not None:
        same_length(logits=logits, others=tensor("others", others, 1))
    room_PC = torch.empty_like(
        logits[:PART]
    )  # reused, because allocating it for each part can take as long as the work
    return 1 / in_parts(total, *((logits,) if others is None else (logits, others)))


def max_logit(logits: Tensor) -> Tensor:
    """Maximum logit (Hendrycks et al., 2022): max_c l_c; (B, C) to (B,)."""
    return check_logits(logits).float().amax(dim=1)


def energy(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Negative free energy (Liu et al., 2020): T · log Σ_c exp(l_c / T); (B, C) to (B,)."""
    check_logits(logits, temperature)
    if temperature == 1:  # saves a copy of the logits
        return logits.float().logsumexp(dim=1)
    return temperature * (logits.float() / temperature).logsumexp(dim=1)


def negative_entropy(logits: Tensor) -> Tensor:
    """Minus the entropy of the softmax (Chan et al., 2021): Σ_c p_c log p_c; (B, C) to (B,) in [−log C, 0]."""

    def of_part(logits_PC: Tensor) -> Tensor:
        gap_PC = _under_the_top(logits_PC).clamp_(min=-1000)  # e^−1000 is 0, and 0 · −∞ would be NaN
        rest_PC = _exp(gap_PC.clone())
        odds_P = rest_PC.sum(dim=1)
        return gap_PC.mul_(rest_PC).sum(dim=1) / (1 + odds_P) - odds_P.log1p()

    return in_parts(of_part, wide(check_logits(logits)))


def generalised_entropy(logits: Tensor, gamma: float = 0.1, top: int = 100) -> Tensor:
    """GEN (Liu et al., 2023): −Σ p_c^γ (1 − p_c)^γ over the ``top`` likeliest classes, or all if there are fewer.

    γ = 0.1 and the top 100 are the official code's, for ImageNet. So small an exponent amplifies p_c and 1 − p_c near
    0. Therefore p_c stays a logarithm until γ is applied, and 1 − p_c is summed from the other classes.

    Returns:
        Scores (B,), at most 0.
    """
    number("gamma", gamma, 0, above=True)
    top = whole("top", top, 1)

    def of_part(logits_PC: Tensor) -> Tensor:
        gap_PC = _under_the_top(logits_PC)
        log_odds_P = gap_PC.logsumexp(dim=1)
        log_all_P = softplus(log_odds_P)
        if top < gap_PC.shape[1]:
            gap_PC = gap_PC.topk(top - 1, dim=1, sorted=False).values
        others_PM = _exp(gap_PC.sub_(log_all_P[:, None]).clone())
        of_others_P = others_PM.neg_().log1p_().add_(gap_PC).mul_(gamma).exp_().sum(dim=1)
        return -(of_others_P + (gamma * (log_odds_P - 2 * log_all_P)).exp())

    return in_parts(of_part, wide(check_logits(logits)))


def _under_the_top(logits_BC: Tensor) -> Tensor:
    """l_c minus the largest logit, and −∞ in the place of the largest."""
    top_B1, at_B1 = logits_BC.max(dim=1, keepdim=True)
    return (logits_BC - top_B1).scatter_(1, at_B1, -torch.inf)


def _exp(exponent: Tensor) -> Tensor:
    """Compute e^l in place; results near the smallest normal number become 0."""
    least = _least(exponent)
    return torch.threshold_(exponent.clamp_(min=least).exp_(), 2 * math.exp(least), 0)


def _least(exponent: Tensor) -> float:
    """The l at which e^l is near the smallest normal number, because processors are very slow with smaller ones."""
    return -700 if exponent.dtype == torch.float64 else -80
