"""Choice of the images to show of an evaluation set: the most confident mistakes, and images near the threshold."""

from collections.abc import Mapping

import numpy as np

from mofe.artifacts.image_set import Role

GALLERY_SIZE = 12


def chosen(role: Role, columns: Mapping[str, np.ndarray], threshold: float) -> dict[str, list[int]]:
    """Choose the rows to show by kind, see :data:`mofe.artifacts.scores.GALLERY_SCHEMA`; ties are always broken alike.

    A row that is chosen from all rows is also chosen from any part of them that contains it.

    Args:
        role: test or ood.
        columns: ``label``, ``predicted`` and ``knn`` of every image.
        threshold: threshold of the KNN score.
    """
    by_score = np.argsort(columns["knn"], kind="stable")
    wrong = columns["predicted"] != columns["label"]
    borderline = np.argsort(np.abs(columns["knn"] - threshold), kind="stable")
    if role == "ood":
        kinds = {"accepted": by_score[::-1]}
    else:
        kinds = {"rejected": by_score, "misclassified": by_score[::-1][wrong[by_score[::-1]]]}
    return {kind: rows[:GALLERY_SIZE].tolist() for kind, rows in {**kinds, "borderline": borderline}.items()}
