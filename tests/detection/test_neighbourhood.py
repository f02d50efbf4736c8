"""Labels and copies judged by neighbours, on clusters whose answer is known."""

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from mofe.detection.neighbourhood import neighbours, same_features, suspects


@pytest.fixture
def clusters() -> tuple[np.ndarray, np.ndarray]:
    """Three tight classes of ten images in nearly orthogonal directions, and their labels."""
    label_N = np.repeat(np.arange(3), 10)
    noise_ND = np.random.default_rng(0).normal(0, 0.02, (30, 16))
    return (np.eye(16)[label_N] + noise_ND).astype(np.float32), label_N


def test_neighbours_are_scikit_learns(clusters: tuple[np.ndarray, np.ndarray]) -> None:
    z_ND, _ = clusters
    unit_ND = z_ND / np.linalg.norm(z_ND, axis=1, keepdims=True)
    distance_NK, row_NK = NearestNeighbors(n_neighbors=4).fit(unit_ND).kneighbors()
    found = neighbours(z_ND, 4)
    np.testing.assert_array_equal(found[1], row_NK)
    np.testing.assert_allclose(found[0], distance_NK, atol=1e-5)


def test_fewer_images_than_neighbours() -> None:
    assert neighbours(np.eye(3, dtype=np.float32), 5)[1].shape == (3, 2)


def test_an_image_is_never_its_own_neighbour_even_among_many_copies() -> None:
    _, row_NK = neighbours(np.ones((9, 4), np.float32), 3)
    assert row_NK.shape == (9, 3)
    assert (row_NK != np.arange(9)[:, None]).all()


def test_wrong_labels_are_found_and_no_right_ones(clusters: tuple[np.ndarray, np.ndarray]) -> None:
    z_ND, label_N = clusters
    given_N = label_N.copy()
    given_N[3], given_N[25] = 2, 0
    found = suspects(neighbours(z_ND, 5)[1], given_N)
    assert [(suspect.image, suspect.likelier) for suspect in found] == [(3, 0), (25, 2)]
    assert all(suspect.share >= 0.8 for suspect in found)
    assert suspects(neighbours(z_ND, 5)[1], label_N) == []


def test_neighbours_that_disagree_accuse_nobody(clusters: tuple[np.ndarray, np.ndarray]) -> None:
    z_ND, label_N = clusters
    row_NK = neighbours(z_ND, 5)[1]
    row_NK[0] = [10, 11, 12, 20, 21]  # 3 of 5 votes for one class
    assert suspects(row_NK, label_N) == []
    row_NK[0] = [10, 11, 12, 13, 20]
    assert [suspect[:2] for suspect in suspects(row_NK, label_N)] == [(0, 1)]
    row_NK[0] = [10, 11, 12, 13, 1]  # one of its own class
    assert suspects(row_NK, label_N) == []


def test_a_class_of_few_images_is_not_judged(clusters: tuple[np.ndarray, np.ndarray]) -> None:
    z_ND, label_N = clusters
    few_N = label_N.copy()
    few_N[0] = 3
    assert suspects(neighbours(z_ND, 5)[1], few_N) == []
    rows_NK = neighbours(z_ND, 5)[1]
    rows_NK[:5] = [10, 11, 12, 13, 14]
    few_N[:5] = 3  # five images; with six they would be judged
    assert suspects(rows_NK, few_N) == []
    few_N[:6] = 3
    assert len(suspects(rows_NK, few_N)) == 5
    few_N = label_N.copy()
    few_N[0] = 3  # all neighbours are of class 0, because its own class has no other image
    assert suspects(neighbours(z_ND, 5)[1], few_N) == []


def test_copies_are_nearer_than_a_quarter_of_what_is_usual(clusters: tuple[np.ndarray, np.ndarray]) -> None:
    z_ND, _ = clusters
    copies_ND = np.vstack([z_ND, z_ND[4] * 2, z_ND[17] + 1e-4, np.eye(16)[9:10]])
    numbers = same_features(*neighbours(copies_ND, 5))
    assert numbers[30] == numbers[4]
    assert numbers[31] == numbers[17]
    assert len(set(numbers)) == 31


def test_what_is_usual_is_the_median_distance_of_the_nearest() -> None:
    distance_NK = np.array([[0.2, 9.0], [0.2, 9.0], [1.0, 9.0], [1.0, 9.0], [1.0, 9.0]])  # a quarter of 1 is 0.25
    row_NK = np.array([[1, 2], [0, 2], [3, 0], [2, 0], [0, 1]])
    assert same_features(distance_NK, row_NK).tolist() == [0, 0, 1, 2, 3]
    assert same_features(np.where(distance_NK == 1, 0.7, distance_NK), row_NK).tolist() == [0, 1, 2, 3, 4]
    assert same_features(np.zeros((1, 0)), np.zeros((1, 0), int)).tolist() == [0]
