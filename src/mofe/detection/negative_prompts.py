"""CLIPN and LSN, which use learned "no" prompts, from the embeddings of the prompts.

B images, C classes, J sets of "no" prompts, D dimensions. The prompts come from the methods' own training. Embeddings
may be of any length, because cosines are computed here.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from mofe.detection.concept_matching import cosines, mcm
from mofe.detection.scores import msp
from mofe.errors import MofeError


def clipn_ctw(image_BD: Tensor, yes_CD: Tensor, no_CD: Tensor, logit_scale: float = 100.0) -> Tensor:
    """CLIPN, competing to win (Wang et al., 2023): p_ĉ, the probability of "yes" against "no" for the likeliest class.

    p_c = e^(s cos y_c) / (e^(s cos y_c) + e^(s cos n_c)), ĉ = argmax_c cos(f, y_c), s = 100 in the official code.

    Args:
        image_BD: image embeddings.
        yes_CD: embeddings of "a photo of a {class}".
        no_CD: embeddings of "a photo without a {class}" by CLIPN's second text encoder.
        logit_scale: s.

    Returns:
        Scores (B,), float64 in [0, 1].
    """
    yes_BC, is_BC = _yes_no(image_BD, yes_CD, no_CD, logit_scale)
    return is_BC.gather(1, yes_BC.argmax(dim=1, keepdim=True)).squeeze(1)


def clipn_atd(image_BD: Tensor, yes_CD: Tensor, no_CD: Tensor, logit_scale: float = 100.0) -> Tensor:
    """CLIPN, agreeing to differ (Wang et al., 2023): Σ_c p_c softmax(s cos y)_c.

    This is 1 minus the probability of an unknown class. p_c, arguments and result are those of :func:`clipn_ctw`.
    """
    yes_BC, is_BC = _yes_no(image_BD, yes_CD, no_CD, logit_scale)
    return (is_BC * yes_BC.softmax(dim=1)).sum(dim=1)


def lsn(image_BD: Tensor, yes_CD: Tensor, no_sets: Sequence[Tensor], no_temperature: float = 5.0) -> Tensor:
    """LSN (Nie et al., 2024): max_c softmax(cos y)_c + mean_j max_c softmax((1 − cos n_j) / τ)_c.

    The official code has three sets of "no" prompts and τ = 5. It multiplies image features that are not normalised
    with normalised texts; here both are normalised.

    Args:
        image_BD: image embeddings.
        yes_CD: embeddings of the learned "yes" prompts.
        no_sets: J sets of (C, D) embeddings of the learned "no" prompts.
        no_temperature: τ.

    Returns:
        Scores (B,) in (0, 2].

    Raises:
        MofeError: there is no set of "no" prompts, or an embedding is invalid.
    """
    if not no_sets:
        raise MofeError('LSN needs at least one set of "no" prompts')
    no_JB = torch.stack([msp((1 - cosines(image_BD, no_CD)) / no_temperature) for no_CD in no_sets])
    return mcm(image_BD, yes_CD) + no_JB.mean(dim=0)


def _yes_no(image_BD: Tensor, yes_CD: Tensor, no_CD: Tensor, logit_scale: float) -> tuple[Tensor, Tensor]:
    """Logits of "yes", and p_c; (B, C), float64 so that confident images do not tie."""
    if yes_CD.shape != no_CD.shape:
        raise MofeError(f'{len(yes_CD)} "yes" and {len(no_CD)} "no" embeddings: CLIPN needs one of each for a class')
    yes_BC, no_BC = (logit_scale * cosines(image_BD, text_CD).double() for text_CD in (yes_CD, no_CD))
    return yes_BC, (yes_BC - no_BC).sigmoid()
