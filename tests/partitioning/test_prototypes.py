"""Sums by class against NumPy's means."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from mofe.artifacts.features import Features, prototype_schema, sum_schema
from mofe.errors import MofeError
from mofe.partitioning.prototypes import PART, ClassSums
from mofe.storage import locations, writing


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


def test_parts_add_up_to_the_same_bits(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    z_ND = (rng.normal(size=(3000, 5)) * 10.0 ** rng.uniform(-7, 3, (3000, 5))).astype(np.float16)
    labels_N = rng.integers(0, 2, 3000)
    whole, parts = ClassSums(2, 5), [ClassSums(2, 5) for _ in range(3)]
    for batch in range(100):
        rows = slice(30 * batch, 30 * batch + 30)
        for sums in (whole, parts[batch * 3 // 100]):
            sums.add(z_ND[rows], labels_N[rows])
    joined = ClassSums(2, 5)
    for number, part in reversed([*enumerate(parts)]):
        with writing.staged(tmp_path / f"part-{number}") as folder:
            part.write(folder)
        joined.join(ClassSums.read(locations.resolve(tmp_path / f"part-{number}")))
    np.testing.assert_array_equal(joined.sum_CD, whole.sum_CD)
    np.testing.assert_array_equal(joined.count_C, whole.count_C)
    with writing.staged(tmp_path / "whole") as folder:
        whole.write_prototypes(folder, ["dog", "fox"], "the-images")
    assert pq.read_table(tmp_path / "part-0" / Features.SUMS).schema == sum_schema(5)
    assert pq.read_table(tmp_path / "whole" / Features.PROTOTYPES).schema == prototype_schema(5)


def test_a_class_without_images_is_named(tmp_path: Path) -> None:
    sums = ClassSums(2, 3)
    sums.add(np.ones((4, 3), np.float32), np.zeros(4, int))
    with pytest.raises(MofeError, match="the-images: class 'fox' has no image to make a prototype of"):
        sums.write_prototypes(locations.resolve(tmp_path), ["dog", "fox"], "the-images")


@pytest.mark.parametrize("rows", [PART - 1, PART, PART + 1, 3 * PART + 7])
def test_a_batch_of_any_size_is_added_once(rows: int) -> None:
    rng = np.random.default_rng(2)
    z_BD, labels_B = rng.normal(size=(rows, 3)).astype(np.float32), rng.integers(0, 4, rows).astype(np.int32)
    sums = ClassSums(4, 3)
    sums.add(z_BD, labels_B)
    for label in range(4):
        own = z_BD[labels_B == label].astype(np.float64)
        np.testing.assert_allclose(sums.sum_CD[label], own.sum(axis=0), rtol=1e-12)
        assert sums.count_C[label] == len(own)
    assert sums.sum_CD.dtype == np.float64
    assert sums.count_C.dtype == np.int64


def test_a_table_has_a_row_for_each_class_in_order(tmp_path: Path) -> None:
    sums = ClassSums(3, 2)
    sums.add(np.array([[1, 2], [3, 4], [5, 6], [7, 8]], np.float32), np.array([0, 2, 2, 1]))
    with writing.staged(tmp_path / "all") as folder:
        sums.write(folder)
        sums.write_prototypes(folder, ["a", "b", "c"], "the-images")
    of_sums, of_means = (pq.read_table(tmp_path / "all" / name) for name in (Features.SUMS, Features.PROTOTYPES))
    assert list(of_sums.to_pydict().values()) == [[0, 1, 2], [1, 1, 2], [[1, 2], [7, 8], [8, 10]]]
    assert list(of_means.to_pydict().values()) == [[0, 1, 2], [1, 1, 2], [[1, 2], [7, 8], [4, 5]]]
