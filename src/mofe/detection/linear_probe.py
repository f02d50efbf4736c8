"""A linear classifier on frozen features, the head of a feature space that has no head of its own."""

import numpy as np
import torch
from torch import Tensor

MOST = 200
"""Largest number of images of a class; more take time and hardly move the boundary."""


def linear_probe(z_ND: np.ndarray, labels_N: np.ndarray, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Fit multinomial logistic regression on standardised features; weights (C, D) and biases (C,), float32.

    The weights and biases include the standardisation.

    Args:
        z_ND: training features.
        labels_N: classes of the features, 0 … C − 1, each at least once.
        seed: seed that selects :data:`MOST` images of a larger class.
    """
    from sklearn.linear_model import LogisticRegression  # the import takes seconds, and inference does not need it

    order_N = np.random.default_rng(seed).permutation(len(labels_N))
    order_N = order_N[np.argsort(labels_N[order_N], kind="stable")]  # class after class
    first_N = np.searchsorted(labels_N[order_N], labels_N[order_N])  # where the image's class begins
    chosen = np.sort(order_N[np.arange(len(order_N)) - first_N < MOST])
    num_classes = int(labels_N.max()) + 1
    z_nD = z_ND[chosen].astype(np.float64)  # in float32 the result depends on the processor
    if num_classes == 1:
        return torch.zeros(1, z_nD.shape[1]), torch.zeros(1)
    mean_D, spread_D = z_nD.mean(axis=0), z_nD.std(axis=0)
    spread_D[spread_D == 0] = 1
    model = LogisticRegression(max_iter=200).fit((z_nD - mean_D) / spread_D, labels_N[chosen])
    weight_CD, bias_C = model.coef_, model.intercept_
    if num_classes == 2:  # scikit-learn keeps one row for two classes
        weight_CD, bias_C = np.stack([0 * weight_CD[0], weight_CD[0]]), np.r_[0, bias_C]
    weight_CD = weight_CD / spread_D
    return torch.from_numpy(weight_CD).float(), torch.from_numpy(bias_C - weight_CD @ mean_D).float()
