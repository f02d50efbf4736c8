"""Judges labels and finds copies by the nearest neighbours of an image in the features of a pre-trained backbone.

The neighbours are found by cosine; see :mod:`mofe.detection.knn`.
"""

from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from mofe.detection.knn import ExpertKNN

NEIGHBOURS = 5
"""Number of neighbours that vote on a label. A class of as few images is not judged, as most votes would be others'."""
AGREEMENT = 0.8
"""Share of the votes that another class needs."""
COPY = 0.25
"""Largest distance of copies, as a share of the median distance between an image and its nearest neighbour."""


class Suspect(NamedTuple):
    """An image that looks mislabelled."""

    image: int
    """Its row."""
    likelier: int
    """The class of most of its neighbours."""
    share: float
    """Share of its neighbours that are of this class."""


def neighbours(embeddings_ND: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Distances and rows (N, K) of the nearest other images of N, nearest first; K = count, or N − 1 if that is less.

    Raises:
        MofeError: an embedding is zero or not finite.
    """
    total = len(embeddings_ND)
    bank = ExpertKNN.build(embeddings_ND, None, 1)
    _, distance_NK, row_NK = bank.search(embeddings_ND, np.zeros(total, int), min(count + 1, total))
    is_self_NK = row_NK == np.arange(total)[:, None]
    is_self_NK[~is_self_NK.any(axis=1), -1] = True  # more copies than neighbours: drop the last instead
    return tuple(part_NK[~is_self_NK].reshape(total, -1) for part_NK in (distance_NK, row_NK))  # type: ignore[return-value]


def suspects(row_NK: np.ndarray, label_N: np.ndarray) -> list[Suspect]:
    """Images of whose neighbours (N, K) at least :data:`AGREEMENT` are of one other class, and none of their own.

    Args:
        row_NK: rows of the nearest images of each, as :func:`neighbours` gives them.
        label_N: class of each image.
    """
    if row_NK.shape[1] < NEIGHBOURS:
        return []
    of_neighbours_NK = label_N[row_NK[:, :NEIGHBOURS]]
    judged_N = np.bincount(label_N)[label_N] > NEIGHBOURS
    found = []
    for image in np.flatnonzero(judged_N & (of_neighbours_NK != label_N[:, None]).all(axis=1)):
        classes, votes = np.unique(of_neighbours_NK[image], return_counts=True)
        share = votes.max() / NEIGHBOURS
        if share >= AGREEMENT:
            found.append(Suspect(int(image), int(classes[votes.argmax()]), float(share)))
    return found


def same_features(distance_NK: np.ndarray, row_NK: np.ndarray) -> np.ndarray:
    """Number of the group of copies of each image, (N,): see :data:`COPY`.

    Args:
        distance_NK: distances of the nearest images of each, as :func:`neighbours` gives them.
        row_NK: their rows.
    """
    total = len(row_NK)
    typical = np.median(distance_NK[:, 0]) if distance_NK.size else 0.0
    image_P, place_P = np.nonzero(distance_NK <= COPY * typical)
    near = coo_array((np.ones(len(image_P), bool), (image_P, row_NK[image_P, place_P])), shape=(total, total))
    return np.asarray(connected_components(near, directed=False)[1], int)
