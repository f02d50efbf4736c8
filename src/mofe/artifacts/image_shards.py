"""Reader of labelled images in Parquet shards."""

from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from upath import UPath

from mofe.artifacts.image_set import ImageSet
from mofe.artifacts.manifest import THREADS
from mofe.errors import MofeError
from mofe.storage import locations

T = TypeVar("T")


class ImageShards:
    """The images of a set, read by row group in bounded memory.

    On this machine every shard is hashed when the set is opened. In an object store that would fetch the whole set
    twice, so only Parquet's checksum of each page is verified, when the page is read.

    Args:
        uri: path or URI of the set.
        hashed: False verifies only the pages' checksums on this machine too. Use it to read a few images, or where
            another process hashes the shards.
    """

    HELD = 64
    """Number of row groups that :meth:`image` keeps in memory."""

    def __init__(self, uri: str | UPath, hashed: bool = True):
        self.uri = locations.resolve(uri)
        self.info = ImageSet.read(self.uri)
        if hashed and locations.is_local(self.uri):
            self.info.check(self.uri)
        self._held: OrderedDict[int, tuple[pa.Array, pa.Array]] = OrderedDict()

    def __len__(self) -> int:
        return self.info.num_images

    @cached_property
    def files(self) -> list[UPath]:
        """The shards, in order."""
        return locations.children(self.uri, "images-*.parquet")

    @cached_property
    def footers(self) -> list[pq.FileMetaData]:
        """The footer of each shard, read once."""
        return self._of_every_file(lambda parquet: parquet.metadata)

    @cached_property
    def row_groups(self) -> list[tuple[int, int, int]]:
        """``(file, row group in the file, rows)`` of every row group, in order.

        Raises:
            MofeError: the shards do not hold as many images as the manifest says.
        """
        groups = []
        for number, metadata in enumerate(self.footers):
            groups += [(number, i, metadata.row_group(i).num_rows) for i in range(metadata.num_row_groups)]
        found = sum(rows for _, _, rows in groups)
        if found != self.info.num_images:
            raise MofeError(
                f"{self.uri}: the shards hold {found} images, but dataset.json says {self.info.num_images}; "
                "make the image set again"
            )
        return groups

    @cached_property
    def starts(self) -> np.ndarray:
        """Position of the first image of each row group, and last the number of images."""
        return np.concatenate([[0], np.cumsum([rows for _, _, rows in self.row_groups])])

    def image(self, position: int) -> tuple[bytes, str, int]:
        """File content, path and label of one image; fast while accesses stay within :attr:`HELD` row groups."""
        group = int(np.searchsorted(self.starts, position, "right")) - 1
        if group not in self._held:
            table = self.read_row_group(group)
            self._held[group] = table["image"].combine_chunks(), table["label"].combine_chunks()
            if len(self._held) > self.HELD:
                self._held.popitem(last=False)
        self._held.move_to_end(group)
        images, labels = self._held[group]
        row = position - int(self.starts[group])
        image = images[row].as_py()
        return image["bytes"], image["path"], labels[row].as_py()

    def read_row_group(self, index: int) -> pa.Table:
        """Read row group ``index`` of the whole set, with the columns ``image`` and ``label``."""
        number, group, _ = self.row_groups[index]
        with locations.open_parquet(self.files[number], self.footers[number]) as parquet:
            return parquet.read_row_group(group)

    def _of_every_file(self, read: Callable[[pq.ParquetFile], T]) -> list[T]:
        """Apply ``read`` to each shard and return the results in order; in threads, because object stores are slow."""

        def one(path: UPath) -> T:
            with locations.open_parquet(path) as parquet:
                return read(parquet)

        with ThreadPoolExecutor(THREADS) as pool:
            return list(pool.map(one, self.files))

    @cached_property
    def labels_N(self) -> np.ndarray:
        """Label of every image in order, int64."""
        columns = self._of_every_file(lambda parquet: parquet.read(columns=["label"])["label"].to_numpy())
        return np.concatenate(columns) if columns else np.empty(0, np.int64)

    @cached_property
    def paths(self) -> pa.ChunkedArray:
        """Path of every image in order, which later tables call ``id``."""
        columns = self._of_every_file(lambda parquet: parquet.read(columns=["image.path"])["image"])
        chunks = [chunk.field("path") for column in columns for chunk in column.chunks]
        return pa.chunked_array(chunks, pa.string())
