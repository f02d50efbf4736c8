"""Features, labels and a linear head that the detectors are compared on: random ones, and real ones."""

from typing import NamedTuple

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from torch import Tensor


class Sample(NamedTuple):
    """Float32; ``train`` and ``test`` are N × D, the head is C × D and C, ``test`` holds known and unknown images."""

    train: Tensor
    labels: Tensor
    test: Tensor
    weight: Tensor
    bias: Tensor

    @property
    def classes(self) -> int:
        return len(self.bias)

    @property
    def train_logits(self) -> Tensor:
        return self.train.to(self.weight) @ self.weight.T + self.bias

    @property
    def test_logits(self) -> Tensor:
        return self.test.to(self.weight) @ self.weight.T + self.bias


def random_features() -> Sample:
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(16, 16, generator=generator)
    means = 3 * torch.randn(6, 16, generator=generator)
    labels = torch.arange(600) % 6
    train = means[labels] + torch.randn(600, 16, generator=generator) @ mixing
    test = 2 * torch.randn(150, 16, generator=generator) @ mixing
    return Sample(train, labels, test, means / 9, -means.square().sum(1) / 18)


def digits_features() -> Sample:
    """24 principal components of scikit-learn's digits, a logistic regression on 0 to 7; 8 and 9 are unknown."""
    images, digits = load_digits(return_X_y=True)
    train, test = np.flatnonzero((digits < 8) & (np.arange(len(digits)) % 3 > 0)), np.arange(0, len(digits), 3)
    components = PCA(24, svd_solver="full").fit(images[train])
    features = components.transform(images).astype(np.float32)
    head = LogisticRegression(max_iter=1000, C=0.01).fit(features[train], digits[train])
    return Sample(
        torch.from_numpy(features[train]),
        torch.from_numpy(digits[train]).long(),
        torch.from_numpy(features[test]),
        torch.from_numpy(head.coef_).float(),
        torch.from_numpy(head.intercept_).float(),
    )
