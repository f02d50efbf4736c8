"""Similarity to a pattern of the predicted class."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from mofe.detection.inputs import check_features, check_labels, in_parts
from mofe.errors import MofeError


@dataclass(frozen=True, eq=False)
class SHE:
    """Simplified Hopfield energy (Zhang et al., 2023): S(z) = z · m_ĉ, ĉ the predicted class.

    m_c is the mean feature of the training images of class c that are predicted as c. The inner product is the official
    code's default, and there is no other hyperparameter.
    """

    pattern_CD: Tensor
    """Pattern of each class, float64."""

    @classmethod
    def fit(cls, chunks: Iterable[tuple[Tensor, Tensor, Tensor]], num_classes: int) -> Self:
        """Fit on features, read chunk by chunk.

        Args:
            chunks: features (N, D), labels (N,), and predicted classes (N,).
            num_classes: C.

        Raises:
            MofeError: a class has no correctly predicted image, or a feature or label is invalid.
        """
        total_CD: Tensor | None = None
        count_C = torch.zeros(num_classes, dtype=torch.float64)
        for z_ND, y_N, predicted_N in chunks:
            z_ND = check_features(z_ND, None if total_CD is None else total_CD.shape[1])
            y_N = check_labels(y_N, len(z_ND), num_classes).to(z_ND.device)
            right_N = y_N == check_labels(predicted_N, len(z_ND), num_classes).to(z_ND.device)
            if total_CD is None:
                total_CD = z_ND.new_zeros(num_classes, z_ND.shape[1], dtype=torch.float64)
                count_C = count_C.to(z_ND.device)
            total_CD.index_add_(0, y_N[right_N], z_ND[right_N].double())
            count_C += torch.bincount(y_N[right_N], minlength=num_classes)
        empty = (count_C == 0).nonzero()
        if total_CD is None or len(empty):
            which = "there is" if total_CD is None else f"class {int(empty[0])} has"
            raise MofeError(f"{which} no training image that is predicted correctly, so SHE has no pattern")
        return cls(total_CD / count_C[:, None])

    def score(self, z_BD: Tensor, predicted_B: Tensor) -> Tensor:
        """Score B images, with the classes that the model predicts: (B,) float64, of either sign."""
        check_features(z_BD, self.pattern_CD.shape[1])
        predicted_B = check_labels(predicted_B, len(z_BD), len(self.pattern_CD)).to(self.pattern_CD.device)

        def along_pattern(z_PD: Tensor, predicted_P: Tensor) -> Tensor:
            return (z_PD.to(self.pattern_CD) * self.pattern_CD[predicted_P]).sum(dim=1)

        return in_parts(along_pattern, z_BD, predicted_B)
