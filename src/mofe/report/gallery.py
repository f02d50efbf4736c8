"""Which images of an evaluation set are shown: the most confident mistakes, and what lies next to the threshold."""

from collections.abc import Mapping

import numpy as np

from mofe.artifacts.image_set import Role

GALLERY_SIZE = 12


def chosen(role: Role, columns: Mapping[str, np.ndarray], threshold: float) -> dict[str, list[int]]:
    """The rows to show by kind, see :data:`mofe.artifacts.scores.GALLERY_SCHEMA`; of several alike, always the same.

    What is chosen of all rows is also chosen of any part of them that it lies in.

    Args:
        role: test or ood.
        columns: ``label``, ``predicted`` and ``knn`` of every image.
        threshold: of the KNN score.
    """
    by_score = np.argsort(columns["knn"], kind="stable")
    wrong = columns["predicted"] != columns["label"]
    borderline = np.argsort(np.abs(columns["knn"] - threshold), kind="stable")
    if role == "ood":
        kinds = {"accepted": by_score[::-1]}
    else:
        kinds = {"rejected": by_score, "misclassified": by_score[::-1][wrong[by_score[::-1]]]}
    return {kind: rows[:GALLERY_SIZE].tolist() for kind, rows in {**kinds, "borderline": borderline}.items()}
