"""Measure the partition of 1000 and 21 000 classes, and prototypes of features streamed from Parquet.

    python benchmarks/partition.py [--quick]

Classes are nouns of WordNet. Their prototypes are generated: the nearer two nouns in WordNet, the nearer their
prototypes. Features are generated, written in the format of extract, and read twice: once only read, once also summed
by class (:class:`mofe.partitioning.prototypes.ClassSums`), with a thread that reads ahead.
"""

import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from side_by_side import Table, Target, alone, alternately, options, ratio, write
from sklearn.cluster import KMeans

from mofe.artifacts.features import feature_schema, write_features
from mofe.artifacts.tables import fixed_size_lists, vectors
from mofe.partitioning.clusters import partition_classes
from mofe.partitioning.prototypes import ClassSums
from mofe.partitioning.wordnet import ensure_wordnet, path_from_root

SEED, EXPERTS = 0, 7


def nouns(count: int) -> list[str]:
    """Every third noun synset of WordNet, from the first on."""
    ensure_wordnet()
    from nltk.corpus import wordnet

    return [synset.name() for synset in islice(wordnet.all_synsets("n"), 0, 3 * count, 3)]


def prototypes(synsets: list[str], width: int) -> np.ndarray:
    """Prototypes (C, D) by a random walk from WordNet's root; nouns that are near in WordNet share most steps."""
    step: dict[str, np.ndarray] = {}
    rng = np.random.default_rng(SEED)

    def of(name: str) -> np.ndarray:
        if name not in step:
            step[name] = rng.standard_normal(width, np.float32)
        return step[name]

    return np.stack([sum((of(name) for name in path_from_root(synset)), np.zeros(width)) for synset in synsets])


def partitions(sizes: tuple[int, ...], width: int) -> tuple[list[Any], list[Target]]:
    """Measure the seconds of the strategies that initialise K-Means, and of scikit-learn's K-Means by default."""
    rows, targets = [], []
    for count in sizes:
        synsets = nouns(count)
        z_CD = prototypes(synsets, width)
        seconds = {}
        for strategy in ("wordnet-kmeans", "kmeans++"):
            started = time.perf_counter()
            found = partition_classes(z_CD, synsets, EXPERTS, strategy)
            seconds[strategy] = time.perf_counter() - started
            if strategy == "wordnet-kmeans":
                ours = found
        started = time.perf_counter()
        theirs = KMeans(EXPERTS, n_init=10, random_state=SEED).fit(z_CD)
        seconds["scikit-learn's K-Means, 10 starts"] = time.perf_counter() - started
        same = partition_classes(z_CD, synsets, EXPERTS) == ours
        rows += [(count, name, s) for name, s in seconds.items()]
        targets.append(
            Target(f"{count:,} classes, wordnet-kmeans", "no slower than K-Means as it comes",
                   f"{seconds['wordnet-kmeans']:.2f} s to {rows[-1][2]:.2f} s; inertia "
                   f"{ours.inertia / theirs.inertia_:.3f} of theirs; again {'the same' if same else 'different'}",
                   seconds["wordnet-kmeans"] <= rows[-1][2])
        )  # fmt: skip
    return rows, targets


def write_table(file: Path, count: int, width: int, classes: int) -> None:
    """Write the features of ``count`` images."""
    rng = np.random.default_rng(SEED)
    block_ND = rng.standard_normal((4096, width), np.float32)
    with file.open("wb") as stream, write_features(stream, width) as append:
        for start in range(0, count, len(block_ND)):
            rows = min(len(block_ND), count - start)
            vector = fixed_size_lists(np.roll(block_ND, start % width, axis=1)[:rows], pa.float16())
            columns = {
                "id": [f"{i}.jpg" for i in range(start, start + rows)],
                "label": pa.array(rng.integers(0, classes, rows), pa.int32()),
                "trunk": vector,
                "embedding": vector,
            }
            append(pa.table(columns, schema=feature_schema(width)))


def groups(file: Path) -> Iterator[pa.Table]:
    """Yield label and trunk of each row group; the next group is read meanwhile."""
    with pq.ParquetFile(file) as parquet, ThreadPoolExecutor(1) as reader:

        def read(i: int) -> pa.Table:
            return parquet.read_row_group(i, columns=["label", "trunk"])

        coming = reader.submit(read, 0)
        for i in range(parquet.num_row_groups):
            table = coming.result()
            if i + 1 < parquet.num_row_groups:
                coming = reader.submit(read, i + 1)
            yield table


def merely_read(file: str) -> int:
    return sum(len(table) for table in groups(Path(file)))


def summed(file: str, classes: int, width: int) -> ClassSums:
    sums = ClassSums(classes, width)
    for table in groups(Path(file)):
        sums.add(vectors(table["trunk"]), table["label"].to_numpy())
    return sums


def count_summed(file: str, classes: int, width: int) -> int:
    return int(summed(file, classes, width).count_C.sum())


def streamed(sizes: tuple[int, int], width: int, classes: int, rounds: int) -> tuple[list[Any], list[Target]]:
    """Measure features per second and peak memory at two sizes; the memory should be the same."""
    rows, targets, peaks = [], [], []
    torch.set_num_threads(1)  # one thread sums while another reads
    with tempfile.TemporaryDirectory() as work:
        file = Path(work) / "features.parquet"
        for count in sizes:
            write_table(file, count, width, classes)
            seconds = alternately(
                {"read": lambda: merely_read(str(file)), "sum": lambda: summed(str(file), classes, width)}, rounds
            )
            share = ratio(seconds["read"], seconds["sum"])
            seen, peak = alone(count_summed, str(file), classes, width)
            assert seen == count
            speeds = [count / float(np.median(s)) for s in seconds.values()]
            rows.append((f"{count:,}", file.stat().st_size / 1e9, *speeds, share, peak))
            peaks.append(peak)
            if count == max(sizes):
                hours = 14e6 / speeds[1] / 60
                targets.append(
                    Target(f"prototypes of {count:,} features", "≥ 70 % of merely reading",
                           f"{share:.0%}; 14 million in {hours:.1f} minutes at this speed", share >= 0.7)
                )  # fmt: skip
    grown = peaks[1] - peaks[0]
    targets.append(
        Target(f"memory, {sizes[1] // sizes[0]} times the features", "the same", f"{grown:+.3f} GB", grown < 0.1)
    )
    return rows, targets


def main() -> None:
    """Measure, print and write the figures."""
    given = options(__doc__ or "")
    sizes, width, features, rounds = (1000, 21_000), 768, (100_000, 400_000), 2
    if given.quick:
        sizes, width, features, rounds = (), 16, (5_000, 10_000), 1
    rows, targets = partitions(sizes, width)
    read, read_targets = streamed(features, width, 21_000 if not given.quick else 100, rounds)
    tables = [
        Table(f"{EXPERTS} experts, prototypes of {width} dimensions", ("classes", "", "seconds"), rows),
        Table("Prototypes from features in Parquet",
              ("features", "file, GB", "merely read, features/s", "summed by class", "share", "peak memory, GB"), read),
    ]  # fmt: skip
    notes = [
        "14 million features (ImageNet-21k) were not written: the figure for them is this speed and the constant "
        "memory, extrapolated. The file lies in the page cache, which makes merely reading as quick as it can be.",
    ]
    write("partition", given, tables, [*targets, *read_targets], notes, seed=SEED, rounds=rounds)


if __name__ == "__main__":
    main()
