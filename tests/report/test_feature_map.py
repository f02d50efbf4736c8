"""The map of the feature space: the same from the same embeddings, groups apart, made by one thread."""

import numpy as np
import pytest
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_info

from mofe.report.feature_map import project

RNG = np.random.default_rng(0)


def test_groups_lie_apart_whatever_the_length_of_embeddings() -> None:
    centres_G1D = 10 * RNG.normal(size=(3, 1, 16))
    embeddings_ND = (centres_G1D + RNG.normal(size=(3, 40, 16))).reshape(120, 16)
    at_GN2 = project(embeddings_ND).reshape(3, 40, 2)
    np.testing.assert_array_equal(project(8 * embeddings_ND).reshape(at_GN2.shape), at_GN2)
    middle_G12 = at_GN2.mean(axis=1, keepdims=True)
    spread = np.linalg.norm(at_GN2 - middle_G12, axis=2).max()
    between = min(np.linalg.norm(middle_G12[a] - middle_G12[b]) for a, b in ((0, 1), (0, 2), (1, 2)))
    assert between > 2 * spread


def test_one_thread_makes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two that share a core with somebody's process take ten times as long."""
    fit, threads = TSNE.fit_transform, []

    def watched(tsne: TSNE, x_ND: np.ndarray) -> np.ndarray:
        threads.extend(pool["num_threads"] for pool in threadpool_info())
        return fit(tsne, x_ND)

    monkeypatch.setattr(TSNE, "fit_transform", watched)
    project(RNG.normal(size=(20, 4)))
    assert set(threads) == {1}
