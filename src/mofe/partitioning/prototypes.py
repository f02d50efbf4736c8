"""The prototype of a class, its mean feature, summed up batch by batch.

B images of a batch, C classes, D features.
"""

import numpy as np
from scipy.sparse import csr_array


class ClassSums:
    """Sums and counts by class; what was read is not kept."""

    def __init__(self, num_classes: int, dim: int):
        self.sum_CD = np.zeros((num_classes, dim))
        self.count_C = np.zeros(num_classes, np.int64)

    def add(self, z_BD: np.ndarray, labels_B: np.ndarray) -> None:
        """Add a batch: within it in float32, across batches in float64."""
        ones_B, images_B = np.ones(len(labels_B), np.float32), np.arange(len(labels_B))
        chosen_CB = csr_array((ones_B, (labels_B, images_B)), shape=(len(self.count_C), len(labels_B)))
        self.sum_CD += chosen_CB @ np.asarray(z_BD, np.float32)
        self.count_C += np.bincount(labels_B, minlength=len(self.count_C))

    @property
    def mean_CD(self) -> np.ndarray:
        """Of every class that has an image; float64, NaN for others."""
        with np.errstate(invalid="ignore"):
            return self.sum_CD / self.count_C[:, None]
