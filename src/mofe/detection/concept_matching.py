"""Comparison of images with the names of the known classes, in the embedding space of a language-image model.

B images, P patches of each, C classes, D dimensions. Embeddings may be of any length, because cosines are computed
here. The factor of the cosines before the softmax decides the score, so each function states it: CLIP's own logit scale
is 100, MCM's softmax has a factor of 1.
"""

from torch import Tensor

from mofe.detection.inputs import check_features, lengths, unit, wide
from mofe.detection.scores import msp
from mofe.errors import MofeError


def cosines(image_BD: Tensor, text_CD: Tensor) -> Tensor:
    """Cosine of each image and each text, (B, C) in [−1, 1], float32 or better.

    Raises:
        MofeError: the widths differ, or an embedding is zero or not finite.
    """
    image_BD, text_CD = wide(check_features(image_BD)), unit(check_features(text_CD))
    if image_BD.shape[1] != text_CD.shape[1]:
        raise MofeError(
            f"images are embedded in {image_BD.shape[1]} dimensions and texts in {text_CD.shape[1]}: take both from "
            "one model"
        )
    return image_BD @ text_CD.to(image_BD).T / lengths(image_BD)


def zero_shot_logits(image_BD: Tensor, text_CD: Tensor, logit_scale: float = 100.0) -> Tensor:
    """Logits of CLIP's classifier (Radford et al., 2021): s cos(f, t_c), (B, C), the input of any score of logits."""
    return logit_scale * cosines(image_BD, text_CD)


def mcm(image_BD: Tensor, text_CD: Tensor, temperature: float = 1.0) -> Tensor:
    """MCM (Ming et al., 2022): max_c softmax(cos(f, t_c) / τ)_c, (B,).

    The official code has τ = 1 and the prompt "a photo of a {class}".
    """
    return msp(cosines(image_BD, text_CD), temperature=temperature)


def local_mcm(patch_BPD: Tensor, text_CD: Tensor, temperature: float = 1.0) -> Tensor:
    """The local part of GL-MCM (Miyai et al., 2025): max over patches and classes of softmax(cos(p, t_c) / τ)_c, (B,).

    In the official code the patches are the value tokens of the last block. The block's output projection, residual and
    MLP are applied to them, then the final norm and CLIP's projection. Only one number an image has to be stored.
    """
    if patch_BPD.ndim != 3 or not patch_BPD.shape[1]:
        raise MofeError(f"patch embeddings of shape {tuple(patch_BPD.shape)} are not images × patches × dimensions")
    return mcm(patch_BPD.flatten(0, 1), text_CD, temperature).view(patch_BPD.shape[:2]).amax(dim=1)


def gl_mcm(image_BD: Tensor, text_CD: Tensor, local_B: Tensor, weight: float = 1.0, temperature: float = 1.0) -> Tensor:
    """GL-MCM (Miyai et al., 2025): MCM + λ local, (B,).

    The official code has λ = 1 and τ = 1 by default, and λ = 0.5 in its script for ImageNet.

    Args:
        image_BD: image embeddings.
        text_CD: embeddings of the class names.
        local_B: scores of :func:`local_mcm` for the same images, at the same τ.
        weight: λ.
        temperature: τ.
    """
    if local_B.shape != image_BD.shape[:1] or not bool(local_B.isfinite().all()):
        raise MofeError(f"{len(image_BD)} images need as many finite local scores, not {tuple(local_B.shape)}")
    global_B = mcm(image_BD, text_CD, temperature)
    return global_B + weight * local_B.to(global_B)
