"""Dynamic-β Mixup (Eq. 11-13): the better a class is classified, the less its images are blended.

    λ ~ Beta(σ, σ),  σ = 1 − w·s,  λ̂ = max(λ, 1 − λ),  x̂ = λ̂ x_i + (1 − λ̂) x_j  with  y_j ≠ y_i

s is the accuracy of the class of x_i on the validation split. σ = 1 (accuracy 0) draws λ uniformly. A small σ (high
accuracy) draws λ near 0 or 1, so images of that class hardly change. λ is folded at ½, so that x_i is always the larger
part of the blended image, because the image goes to the expert of x_i.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mofe.errors import MofeError

LEAST_SIGMA = 0.05
"""Lower limit of σ, because the Beta distribution needs σ > 0; at 0.05, λ̂ is 1 for all but a few images in 100."""


class Mixed(NamedTuple):
    """A blended batch: a share ``lam[b]`` of image b is of class ``labels_a[b]``, the rest of ``labels_b[b]``."""

    images: Tensor
    labels_a: Tensor
    labels_b: Tensor
    lam: Tensor


class DynamicBetaMixup:
    """Blends each image of a batch with an image of another class; λ̂ is drawn for each image.

    Args:
        num_classes: C.
        scale: w in [0, 1]; with 0, σ is 1 for every class.
        generator: random generator; a new one if None.
        fold: False uses λ in [0, 1] instead of λ̂, as the authors' code does.

    Raises:
        MofeError: ``scale`` is not in [0, 1].
    """

    def __init__(
        self, num_classes: int, scale: float, generator: np.random.Generator | None = None, *, fold: bool = True
    ):
        if not 0 <= scale <= 1:
            raise MofeError(f"mixup_scale = {scale} must lie in [0, 1]")
        self.scale = scale
        self.generator = generator or np.random.default_rng()
        self.fold = fold
        self.sigma_C = np.ones(num_classes)

    def update(self, accuracy_C: Sequence[float] | np.ndarray) -> None:
        """Set each class's σ from its accuracy s in [0, 1] (Eq. 12)."""
        self.sigma_C = np.maximum(1 - self.scale * np.asarray(accuracy_C, np.float64), LEAST_SIGMA)

    def sample(self, labels_B: Tensor) -> Tensor:
        """Draw λ̂ in [½, 1] for each image, by its class: λ ~ Beta(σ, σ), folded (Eq. 13).

        With ``fold=False``, λ in [0, 1].
        """
        sigma_B = self.sigma_C[labels_B.cpu().numpy()]
        lam_B = self.generator.beta(sigma_B, sigma_B)
        return torch.from_numpy(np.maximum(lam_B, 1 - lam_B) if self.fold else lam_B).float()

    def partners(self, labels_B: Tensor) -> Tensor:
        """Draw for each image the position of an image of another class; its own if the batch has only one class."""
        labels = labels_B.cpu().numpy()
        order = np.argsort(labels, kind="stable")
        first = np.searchsorted(labels[order], labels, "left")
        size = np.searchsorted(labels[order], labels, "right") - first
        others = len(labels) - size
        pick = (self.generator.random(len(labels)) * others).astype(np.int64)
        pick += np.where(pick >= first, size, 0)  # skip the block of the image's own class
        return torch.from_numpy(np.where(others > 0, order[pick % len(labels)], np.arange(len(labels))))

    def __call__(self, images: Tensor, labels_B: Tensor) -> Mixed:
        """Blend a batch (Eq. 11); images (B, …) in any float type, labels (B,) int64."""
        partner_B = self.partners(labels_B)
        lam_B = self.sample(labels_B)
        weight = lam_B.to(images).view(-1, *[1] * (images.ndim - 1))
        blended = weight * images + (1 - weight) * images[partner_B.to(images.device)]
        return Mixed(blended, labels_B, labels_B[partner_B.to(labels_B.device)], lam_B.to(labels_B.device))
