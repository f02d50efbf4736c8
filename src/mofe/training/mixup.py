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

from mofe.arguments import array, instance, number, same_length, tensor, whole
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

    Raises :class:`MofeError` for arguments of another type or range.

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
        self.scale = number("scale", scale, 0, 1)
        if generator is not None:
            instance("generator", generator, np.random.Generator)
        self.generator = generator or np.random.default_rng()
        self.fold = fold
        self.sigma_C = np.ones(whole("num_classes", num_classes, 1, 1 << 24))

    def update(self, accuracy_C: Sequence[float] | np.ndarray) -> None:
        """Set each class's σ from its accuracy s in [0, 1] (Eq. 12).

        Raises:
            MofeError: there is not one accuracy for each class, or one is outside [0, 1].
        """
        s_C = np.asarray(array("accuracy", accuracy_C, 1), np.float64)
        if s_C.shape != self.sigma_C.shape or not ((s_C >= 0) & (s_C <= 1)).all():
            raise MofeError(f"accuracy must hold {len(self.sigma_C)} numbers in [0, 1], one for each class")
        self.sigma_C = np.maximum(1 - self.scale * s_C, LEAST_SIGMA)

    def _labels(self, labels_B: Tensor) -> np.ndarray:
        label_B = tensor("labels", labels_B, 1, floating=False).cpu().numpy()
        if label_B.size and not 0 <= label_B.min() <= label_B.max() < len(self.sigma_C):
            raise MofeError(
                f"labels must lie between 0 and {len(self.sigma_C) - 1}, found {np.unique(label_B)[[0, -1]]}"
            )
        return label_B

    def sample(self, labels_B: Tensor) -> Tensor:
        """Draw λ̂ in [½, 1] for each image, by its class: λ ~ Beta(σ, σ), folded (Eq. 13).

        With ``fold=False``, λ in [0, 1].

        Raises:
            MofeError: the labels are not whole numbers from 0 to C − 1.
        """
        label_B = self._labels(labels_B)
        sigma_B = self.sigma_C[label_B]
        lam_B = self.generator.beta(sigma_B, sigma_B)
        return torch.from_numpy(np.maximum(lam_B, 1 - lam_B) if self.fold else lam_B).float()

    def partners(self, labels_B: Tensor) -> Tensor:
        """For each image the position of one of another class, uniformly; its own where the batch has no other."""
        labels = self._labels(labels_B)
        order = np.argsort(labels, kind="stable")
        first = np.searchsorted(labels[order], labels)
        size = np.searchsorted(labels[order], labels, "right") - first
        others = len(labels) - size
        pick = (self.generator.random(len(labels)) * others).astype(np.int64)
        pick += np.where(pick >= first, size, 0)  # skip the block of the image's own class
        return torch.from_numpy(np.where(others > 0, order[pick % len(labels)], np.arange(len(labels))))

    def __call__(self, images: Tensor, labels_B: Tensor) -> Mixed:
        """Blend a batch (Eq. 11); images (B, …) in any float type, labels (B,) int64.

        Raises:
            MofeError: the images are not floats, or the labels not a class of each.
        """
        if not tensor("images", images).ndim:
            raise MofeError("images must have a first dimension, the batch")
        same_length(images=images, labels=tensor("labels", labels_B, 1, floating=False))
        partner_B = self.partners(labels_B)
        lam_B = self.sample(labels_B)
        weight = lam_B.to(images).view(-1, *[1] * (images.ndim - 1))
        blended = weight * images + (1 - weight) * images[partner_B.to(images.device)]
        return Mixed(blended, labels_B, labels_B[partner_B.to(labels_B.device)], lam_B.to(labels_B.device))
