"""Counts, means and scatter of features by class, which the Gaussian detectors need, from one pass over chunks.

C classes, D features, N images of a chunk. Chunks are merged as in Chan, Golub and LeVeque (1979), each centred on its
own means. So there is no cancellation, however far the features lie from the origin or the classes from each other.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from mofe.detection.inputs import check_features, check_labels, lengths, unit
from mofe.errors import MofeError


@dataclass(frozen=True, eq=False)
class ClassMoments:
    """Moments of features by class, float64, on the device of the features."""

    count_C: Tensor
    """Number of images of each class."""
    mean_CD: Tensor
    within_DD: Tensor
    """Σ_i (z_i − μ_{y_i}) (z_i − μ_{y_i})ᵀ, a sum and not a mean."""
    step_D: Tensor
    """Mean square of the step from a feature to the next number of the precision that the chunks have."""
    normalise: bool
    """Whether the features were divided by their length first. A detector fitted on these moments does the same."""

    @classmethod
    def of(cls, chunks: Iterable[tuple[Tensor, Tensor]], num_classes: int, *, normalise: bool = False) -> Self:
        """Compute the moments chunk by chunk; no chunk is kept.

        Args:
            chunks: pairs of features (N, D), in the precision that they were stored in, and labels (N,) in 0 … C − 1.
            num_classes: C.
            normalise: True divides each feature by its Euclidean length first.

        Raises:
            MofeError: there is no chunk, a class has no image, or a feature or label is invalid.
        """
        moments, step_D = None, torch.zeros(())
        for z_ND, y_N in chunks:
            z_ND = check_features(z_ND, None if moments is None else moments[1].shape[1])
            y_N = check_labels(y_N, len(z_ND), num_classes).to(z_ND.device)
            step_ND, z_ND = _step(z_ND), z_ND.double()
            if normalise:
                step_ND, z_ND = step_ND / lengths(z_ND), unit(z_ND)
            step_D = step_D.to(z_ND) + step_ND.square().sum(dim=0)
            if moments is None:
                zero_CD = z_ND.new_zeros(num_classes, z_ND.shape[1])
                moments = zero_CD.new_zeros(num_classes), zero_CD, zero_CD.new_zeros(z_ND.shape[1], z_ND.shape[1])
            moments = _merge(*moments, z_ND, y_N)
        if moments is None:
            raise MofeError("there are no training features to fit a detector on")
        empty = (moments[0] == 0).nonzero()
        if len(empty):
            raise MofeError(f"class {int(empty[0])} has no training feature, so it has no mean")
        return cls(*moments, step_D / moments[0].sum(), normalise)

    @property
    def count(self) -> int:
        return int(self.count_C.sum())

    @property
    def mean_D(self) -> Tensor:
        """Mean of all images."""
        return self.count_C @ self.mean_CD / self.count

    def scatter_around(self, origin_D: Tensor) -> Tensor:
        """Σ_i (z_i − o) (z_i − o)ᵀ over all images, (D, D)."""
        offset_CD = self.mean_CD - origin_D
        return self.within_DD + offset_CD.T @ (self.count_C[:, None] * offset_CD)


def _step(z_ND: Tensor) -> Tensor:
    """Distance from each number to the next smaller one of its precision, float64; 0 at 0."""
    size_ND = z_ND.abs()
    return size_ND.double() - size_ND.nextafter(size_ND.new_zeros(())).double()


def _merge(
    count_C: Tensor, mean_CD: Tensor, within_DD: Tensor, z_ND: Tensor, y_N: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    new_C = torch.bincount(y_N, minlength=len(count_C)).double()
    new_mean_CD = torch.zeros_like(mean_CD).index_add_(0, y_N, z_ND) / new_C.clamp(min=1)[:, None]
    centred_ND = z_ND - new_mean_CD[y_N]
    shift_CD = new_mean_CD - mean_CD
    share_C = new_C / (count_C + new_C).clamp(min=1)
    between_DD = shift_CD.T @ ((count_C * share_C)[:, None] * shift_CD)
    return count_C + new_C, mean_CD + share_C[:, None] * shift_CD, within_DD + centred_ND.T @ centred_ND + between_DD
