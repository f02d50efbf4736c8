"""Scores from logits; higher means more in-distribution. All in float32 or better, so that saturation makes no ties.

``logits`` is B × K: the outputs of the expert that an image was routed to, −inf at classes of other experts. A last
column "others" takes part in the softmax (its mass is doubt), but is never itself evidence for a known class.
"""

import torch
from torch import Tensor


def msp(logits: Tensor, others: Tensor | None = None) -> Tensor:
    """Maximum softmax probability (Hendrycks and Gimpel, 2017): max_c softmax(l)_c, as its logarithm's exponential.

    Args:
        logits: (B, C) at the known classes.
        others: (B,) logit of "others", which shares the softmax; None where there is none.

    Returns:
        (B,) in (0, 1].
    """
    logits = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
    everything = logits if others is None else torch.cat([logits, others[:, None].to(logits)], dim=1)
    return (logits.amax(dim=1) - everything.logsumexp(dim=1)).exp()


def max_logit(logits: Tensor) -> Tensor:
    """Maximum logit (Hendrycks et al., 2022): max_c l_c; (B, C) to (B,)."""
    return logits.float().amax(dim=1)


def energy(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Negative free energy (Liu et al., 2020): T · log Σ_c exp(l_c / T); (B, C) to (B,)."""
    return temperature * (logits.float() / temperature).logsumexp(dim=1)
