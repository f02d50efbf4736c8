"""Sums by class against NumPy's means."""

import numpy as np

from mofe.partitioning.prototypes import ClassSums


def test_means_of_what_came_in_batches() -> None:
    rng = np.random.default_rng(0)
    z_ND, labels_N = (rng.normal(3, 1, (500, 7))).astype(np.float16), rng.integers(0, 5, 500)
    sums = ClassSums(6, 7)
    for start in range(0, 500, 64):
        sums.add(z_ND[start : start + 64], labels_N[start : start + 64])
    expected = [z_ND[labels_N == c].astype(np.float64).mean(axis=0) for c in range(5)]
    np.testing.assert_allclose(sums.mean_CD[:5], expected, rtol=1e-12)
    np.testing.assert_array_equal(sums.count_C, np.bincount(labels_N, minlength=6))
    assert np.isnan(sums.mean_CD[5]).all()
