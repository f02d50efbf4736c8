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


def test_the_share_is_rounded_and_drawn_from_all_images_of_the_class() -> None:
    labels = np.repeat([4, 9], [28, 12])
    drawn = [validation_mask(labels, 0.3, seed) for seed in range(200)]
    assert {(int(mask[:28].sum()), int(mask[28:].sum())) for mask in drawn} == {(8, 4)}  # 8.4 and 3.6
    assert all(mask.dtype == bool for mask in drawn)
    counts = np.sum(drawn, axis=0)
    for own, expected in ((counts[:28], 200 * 8 / 28), (counts[28:], 200 * 4 / 12)):
        assert np.abs(own - expected).max() < 5 * expected**0.5
