"""The prototype of a class, its mean feature, summed up batch by batch.

B images of a batch, P of a part of it, C classes, Q of which are in the part, D features.
"""

import numpy as np
from scipy.sparse import csr_array

PART = 1024
"""Images that are summed up at once; in float32 they stay in the processor's cache."""


class ClassSums:
    """Sums and counts by class; what was read is not kept."""

    def __init__(self, num_classes: int, dim: int):
        self.sum_CD = np.zeros((num_classes, dim))
        self.count_C = np.zeros(num_classes, np.int64)

    def add(self, z_BD: np.ndarray, labels_B: np.ndarray) -> None:
        """Add a batch: within a part of it in float32, across parts in float64."""
        for start in range(0, len(labels_B), PART):
            part_PD = z_BD[start : start + PART].astype(np.float32)
            # the product is over the classes of the part: of 21 000 classes most are not in it
            present_Q, row_P = np.unique(labels_B[start : start + PART], return_inverse=True)
            ones_P, images_P = np.ones(len(row_P), np.float32), np.arange(len(row_P))
            chosen_QP = csr_array((ones_P, (row_P, images_P)), shape=(len(present_Q), len(row_P)))
            self.sum_CD[present_Q] += chosen_QP @ part_PD
        self.count_C += np.bincount(labels_B, minlength=len(self.count_C))

    @property
    def mean_CD(self) -> np.ndarray:
        """Of every class that has an image; float64, NaN for others."""
        with np.errstate(invalid="ignore"):
            return self.sum_CD / self.count_C[:, None]
