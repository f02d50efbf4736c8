"""The prototype of a class, its mean feature, summed up batch by batch.

B images of a batch, C classes, D features.
"""

import numpy as np


class ClassSums:
    """Sums and counts by class; what was read is not kept."""

    def __init__(self, num_classes: int, dim: int):
        self.sum_CD = np.zeros((num_classes, dim))
        self.count_C = np.zeros(num_classes, np.int64)

    def add(self, z_BD: np.ndarray, labels_B: np.ndarray) -> None:
        """Add a batch, in float64."""
        # row by row: with few images a class, no product or sort of the batch is quicker
        for z_D, label in zip(z_BD, labels_B.tolist(), strict=True):
            sum_D = self.sum_CD[label]
            sum_D += z_D
        self.count_C += np.bincount(labels_B, minlength=len(self.count_C))

    @property
    def mean_CD(self) -> np.ndarray:
        """Of every class that has an image; float64, NaN for others."""
        with np.errstate(invalid="ignore"):
            return self.sum_CD / self.count_C[:, None]
