"""A Gaussian classifier that is added to CLIP's own, on the same embeddings."""

import math
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from mofe.detection.inputs import check_features, check_labels, unit
from mofe.detection.moments import ClassMoments
from mofe.errors import MofeError


@dataclass(frozen=True, eq=False)
class GDA:
    """The "hard-to-beat" training-free classifier of CLIP (Wang et al., 2024); gives logits, which any score can use.

    l_c(f) = s f·t_c + α (f·w_c + b_c) on the unit sphere, with w_c = Σ⁻¹ μ_c, b_c = log(1/C) − ½ μ_cᵀ Σ⁻¹ μ_c and the
    shrunk Σ⁻¹ = D ((N − 1) Σ̂ + tr(Σ̂) I)⁻¹. The official code has s = 100. Of 1e-4, 1e-3 … 100 it takes the first α with
    the best accuracy on validation images. On ImageNet it uses the test images for that, which is not repeated here.
    """

    text_CD: Tensor
    weight_CD: Tensor
    bias_C: Tensor
    alpha: float
    logit_scale: float

    @classmethod
    def fit(
        cls,
        moments: ClassMoments,
        text_CD: Tensor,
        validation_ND: Tensor,
        labels_N: Tensor,
        logit_scale: float = 100.0,
    ) -> Self:
        """Fit on moments of normalised image embeddings, and choose α on held-out images.

        Args:
            moments: moments of the training images' normalised embeddings.
            text_CD: embeddings of the class names, of any length.
            validation_ND: embeddings of held-out images, of any length.
            labels_N: labels of the held-out images.
            logit_scale: s.

        Raises:
            MofeError: the moments are of embeddings that are not normalised or do not vary within a class, an
                embedding is invalid, or there is no held-out image.
        """
        if not moments.normalise:
            raise MofeError("GDA needs embeddings on the unit sphere: take the moments with normalise=True")
        num_classes, width = moments.mean_CD.shape
        text_CD = unit(check_features(text_CD, width).to(moments.mean_CD)).contiguous()
        labels_N = check_labels(labels_N, len(validation_ND), num_classes).to(text_CD.device)
        trace = float(moments.within_DD.trace()) / max(moments.count - 1, 1)
        if len(text_CD) != num_classes or not len(labels_N):
            raise MofeError(f"GDA needs a text embedding for each of {num_classes} classes, and held-out images")
        if trace <= 0:
            raise MofeError("the embeddings do not vary within any class: GDA needs more than one image of a class")
        shrunk_DD = moments.within_DD + trace * torch.eye(width).to(text_CD)
        weight_CD = width * torch.linalg.solve(shrunk_DD, moments.mean_CD.T).T.contiguous()
        bias_C = -math.log(num_classes) - (weight_CD * moments.mean_CD).sum(dim=1) / 2
        candidates = [
            cls(text_CD, weight_CD, bias_C, alpha, logit_scale) for alpha in (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0)
        ]
        return max(candidates, key=lambda gda: int((gda.logits(validation_ND).argmax(dim=1) == labels_N).sum()))

    def logits(self, z_BD: Tensor) -> Tensor:
        """Logits of B images, (B, C) float64."""
        z_BD = unit(check_features(z_BD, self.text_CD.shape[1]).to(self.text_CD))
        gaussian_BC = z_BD @ self.weight_CD.T + self.bias_C
        return self.logit_scale * z_BD @ self.text_CD.T + self.alpha * gaussian_BC
