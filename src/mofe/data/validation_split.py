"""The validation split: the training images that are held out from training."""

import numpy as np


def validation_mask(labels_N: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Boolean mask (N,) of validation images: ``fraction`` of each class, at least one, but never all of a class.

    The same labels and seed always give the same split, so later stages can repeat it.
    """
    generator = np.random.default_rng(seed)
    mask = np.zeros(len(labels_N), bool)
    for c in np.unique(labels_N):
        members = np.flatnonzero(labels_N == c)
        take = min(max(1, round(fraction * len(members))), len(members) - 1)
        mask[generator.permutation(members)[:take]] = True
    return mask
