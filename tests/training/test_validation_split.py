"""The validation split is stratified, stable, and never takes a whole class."""

import numpy as np

from mofe.data.validation_split import validation_mask


def test_each_class_gives_its_share_at_least_one_and_keeps_at_least_one() -> None:
    labels = np.repeat([0, 1, 2], [100, 10, 2])
    mask = validation_mask(labels, 0.05, 0)
    assert [int(mask[labels == c].sum()) for c in range(3)] == [5, 1, 1]
    assert not validation_mask(np.array([0, 1, 1]), 0.5, 0)[0]


def test_the_split_is_decided_by_the_seed() -> None:
    labels = np.arange(500) % 5
    assert np.array_equal(validation_mask(labels, 0.1, 3), validation_mask(labels, 0.1, 3))
    assert not np.array_equal(validation_mask(labels, 0.1, 3), validation_mask(labels, 0.1, 4))
