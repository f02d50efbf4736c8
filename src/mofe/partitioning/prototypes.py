"""The prototype of a class (its mean feature), computed from sums over batches.

B images of a batch, C classes, D features.
"""

from collections.abc import Sequence
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from upath import UPath

from mofe.artifacts.features import Features, prototype_schema, sum_schema
from mofe.artifacts.tables import fixed_size_lists, vectors
from mofe.errors import MofeError
from mofe.storage import locations, writing

PART = 512
"""Number of features that are held in float64 at once."""


class ClassSums:
    """Sums and counts of features by class; the features are not kept.

    Features in float16 are multiples of 2⁻²⁴, which float64 adds without an error while sums stay below 2²⁹. So neither
    the order of the batches nor the number of tasks that add them changes a bit.
    """

    def __init__(self, num_classes: int, dim: int):
        self.sum_CD = np.zeros((num_classes, dim))
        self.count_C = np.zeros(num_classes, np.int64)

    def add(self, z_BD: np.ndarray, labels_B: np.ndarray) -> None:
        """Add a batch, in float64."""
        import torch  # here, because the stage that only joins sums does not need torch

        sum_CD, label_B = torch.from_numpy(self.sum_CD), torch.from_numpy(labels_B.astype(np.int64))
        for start in range(0, len(z_BD), PART):
            part = slice(start, start + PART)
            sum_CD.index_add_(0, label_B[part], torch.from_numpy(z_BD[part].astype(np.float64)))
        self.count_C += np.bincount(labels_B, minlength=len(self.count_C))

    def join(self, other: Self) -> None:
        """Add the sums and counts of ``other``."""
        self.sum_CD += other.sum_CD
        self.count_C += other.count_C

    @property
    def mean_CD(self) -> np.ndarray:
        """Mean feature of every class, float64; NaN for a class without an image."""
        with np.errstate(invalid="ignore"):
            return self.sum_CD / self.count_C[:, None]

    def write(self, folder: UPath) -> None:
        """Write the sums into a part of a feature set."""
        self._write(folder / Features.SUMS, self.sum_CD, sum_schema(self.sum_CD.shape[1]))

    @classmethod
    def read(cls, folder: UPath) -> Self:
        """Read the sums of a part of a feature set."""
        table = locations.read_parquet(folder / Features.SUMS)
        sum_CD = vectors(table["sum"])
        sums = cls(*sum_CD.shape)
        sums.sum_CD, sums.count_C = sum_CD, table["count"].to_numpy()
        return sums

    def write_prototypes(self, folder: UPath, classes: Sequence[str], where: str) -> None:
        """Write the means into a feature set.

        Args:
            folder: folder of the feature set.
            classes: names of the classes.
            where: URI of the images, for error messages.

        Raises:
            MofeError: a class has no image; the message names it.
        """
        empty = np.flatnonzero(self.count_C == 0)
        if empty.size:
            raise MofeError(f"{where}: class {classes[empty[0]]!r} has no image to make a prototype of")
        self._write(folder / Features.PROTOTYPES, self.mean_CD, prototype_schema(self.sum_CD.shape[1]))

    def _write(self, place: UPath, values_CD: np.ndarray, schema: pa.Schema) -> None:
        columns = [np.arange(len(self.count_C)), self.count_C, fixed_size_lists(values_CD, schema[2].type.value_type)]
        with writing.file(place) as file:
            pq.write_table(pa.table(dict(zip(schema.names, columns, strict=True)), schema=schema), file)
