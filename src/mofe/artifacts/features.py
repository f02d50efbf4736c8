"""Features of the training images by the pre-trained backbone: one per image, and one prototype per class."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import IO, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from upath import UPath

from mofe.artifacts.backbone import Backbone
from mofe.artifacts.manifest import Manifest
from mofe.artifacts.tables import in_row_groups, vectors
from mofe.errors import MofeError
from mofe.storage import locations


class FeatureInfo(Manifest):
    """The manifest ``features.json`` of extracted features."""

    file_name: ClassVar[str] = "features.json"
    what: ClassVar[str] = "feature set"
    backbone: Backbone
    dim: int
    num_images: int
    classes: tuple[str, ...]
    synsets: tuple[str | None, ...]
    precision: str = ""
    """Precision of matrix products, bf16 or fp32; "" in feature sets from before it was recorded."""


class FeaturePart(FeatureInfo):
    """``part.json``: features of some of the images, extracted by one task of several; merge_features joins them.

    The folder holds sums in the place of prototypes (:class:`mofe.partitioning.prototypes.ClassSums`). Fields that are
    not declared here describe the whole feature set.
    """

    file_name: ClassVar[str] = "part.json"
    what: ClassVar[str] = "part of a feature set"
    start: int
    """Position of the part's first image."""
    stop: int
    """Position after the part's last image."""

    @property
    def whole(self) -> FeatureInfo:
        """The manifest of the whole feature set."""
        return FeatureInfo.model_validate(self.model_dump(exclude={"files", "start", "stop"}))


FEATURE_ROWS = 4096
"""Images in a row group of features."""


def feature_schema(dim: int) -> pa.Schema:
    """Schema of features: ``trunk`` is the class embedding that enters the MoFE layer, ``embedding`` the final one."""
    vector = pa.list_(pa.float16(), dim)
    return pa.schema([("id", pa.string()), ("label", pa.int32()), ("trunk", vector), ("embedding", vector)])


def prototype_schema(dim: int) -> pa.Schema:
    """Schema of prototypes: for each class, the number of its images and their mean trunk embedding."""
    return pa.schema([("label", pa.int32()), ("count", pa.int64()), ("prototype", pa.list_(pa.float32(), dim))])


def sum_schema(dim: int) -> pa.Schema:
    """Schema of a part's sums: as :func:`prototype_schema`, with the sum in the place of the mean."""
    return pa.schema([("label", pa.int32()), ("count", pa.int64()), ("sum", pa.list_(pa.float64(), dim))])


@contextmanager
def write_features(file: IO[bytes], dim: int) -> Iterator[Callable[[pa.Table], None]]:
    """Yield a function that appends tables of :func:`feature_schema`, in row groups of :data:`FEATURE_ROWS`.

    Vectors are written without compression or dictionary, because their values hardly repeat. With both, the file is
    as large and takes five times as long to read and to write.
    """
    with (
        pq.ParquetWriter(
            file,
            feature_schema(dim),
            compression="none",
            use_dictionary=["id", "label"],
            write_statistics=["id", "label"],
        ) as parquet,
        in_row_groups(parquet, FEATURE_ROWS) as write,
    ):
        yield write


class Features:
    """Reader of the extracted features of the training images, and of the prototypes of their classes."""

    TABLE, PROTOTYPES = "features.parquet", "prototypes.parquet"
    SUMS = "sums.parquet"
    """Name of the file that a part has in the place of prototypes."""

    def __init__(self, uri: str | UPath):
        self.uri = locations.resolve(uri)
        self.info = FeatureInfo.read(self.uri)

    @cached_property
    def prototypes_CD(self) -> np.ndarray:
        """Mean trunk embedding of each class, (C, D) float32."""
        self.info.check(self.uri, self.PROTOTYPES)
        return vectors(locations.read_parquet(self.uri / self.PROTOTYPES)["prototype"])

    def column(self, name: Literal["trunk", "embedding"]) -> np.ndarray:
        """Read one vector of every image, (N, D) float16 as stored; row group by row group, to hold it only once."""
        values_ND = np.empty((self.info.num_images, self.info.dim), np.float16)
        start = 0
        with locations.open_parquet(self._table) as table:
            if table.metadata.num_rows != len(values_ND):
                raise MofeError(
                    f"{self.uri}: {self.TABLE} has {table.metadata.num_rows} images, but features.json says "
                    f"{len(values_ND)}; make the feature set again"
                )
            for group in range(table.num_row_groups):
                part_MD = vectors(table.read_row_group(group, [name])[name])
                values_ND[start : start + len(part_MD)] = part_MD
                start += len(part_MD)
        return values_ND

    @cached_property
    def _table(self) -> UPath:
        self.info.check(self.uri, self.TABLE)
        return self.uri / self.TABLE
