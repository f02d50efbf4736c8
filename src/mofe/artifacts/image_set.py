"""Labelled images in Parquet shards: the manifest of a set, and the writer of its shards."""

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, ClassVar, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict
from upath import UPath

from mofe.artifacts.manifest import Manifest
from mofe.storage import writing

Role = Literal["train", "test", "ood"]
"""Purpose of an image set: training, ID test, or OOD test."""


class Aside(BaseModel):
    """An entry of the source that is not in the set, and the reason."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    path: str
    reason: str


class ImageSet(Manifest):
    """The manifest ``dataset.json`` of a set of image shards.

    ``label`` in the shards is an index into ``classes``, or -1 in a set without labels.
    """

    file_name: ClassVar[str] = "dataset.json"
    what: ClassVar[str] = "image set"
    name: str
    role: Role
    source: str
    digest: str
    classes: tuple[str, ...]
    synsets: tuple[str | None, ...]
    """WordNet synset of each class that the data gives one for (a wnid, or a line of ``synsets.csv``), else None."""
    counts: tuple[int, ...]
    num_listed: int
    """Number of entries of the source; the sum of the three numbers that follow."""
    num_images: int
    num_rejected: int
    """Number of entries that claim to be images and cannot be used."""
    num_passed_over: int
    """Number of other entries: hidden, text, over ``images_per_class``."""
    rejected: tuple[Aside, ...]
    """The first of the rejected entries."""
    passed_over: tuple[Aside, ...]
    """The first of the entries that were passed over."""
    notes: tuple[str, ...]
    """Decisions of rules where the source could be read in two ways."""
    parameters: dict[str, Any]
    """Parameters of prepare that the image set depends on."""


def image_schema(classes: Sequence[str]) -> pa.Schema:
    """Arrow schema of image shards, in the format of Hugging Face, including the ``huggingface`` metadata."""
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": list(classes)}}
    return pa.schema(
        [("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])), ("label", pa.int64())],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )


class ImageShardWriter:
    """Writes images into Parquet shards in row groups; see :func:`write_image_shards`."""

    def __init__(self, folder: UPath, classes: Sequence[str], rows_per_group: int, groups_per_shard: int):
        self.folder = folder
        self.schema = image_schema(classes)
        self.rows_per_group = rows_per_group
        self.groups_per_shard = groups_per_shard
        self.counts = [0] * len(classes)
        self.num_images = 0
        self._rows: list[tuple[bytes, str, int]] = []
        self.opened = ExitStack()
        self._parquet: pq.ParquetWriter | None = None
        self._groups = 0
        self._shards = 0

    def add(self, content: bytes, path: str, label: int) -> None:
        """Append one encoded image; ``label`` is -1 if the image has no label."""
        if label >= 0:
            self.counts[label] += 1
        self.num_images += 1
        self._rows.append((content, path, label))
        if len(self._rows) == self.rows_per_group:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            if self._parquet is None:
                file = self.opened.enter_context(writing.file(self.folder / f"images-{self._shards:05d}.parquet"))
                # encoded images do not compress further, and a dictionary of distinct values saves nothing
                writer = pq.ParquetWriter(
                    file, self.schema, compression="none", use_dictionary=False, write_page_checksum=True
                )
                self._parquet = self.opened.enter_context(writer)
                self._shards += 1
            images = [{"bytes": content, "path": path} for content, path, _ in self._rows]
            labels = [label for _, _, label in self._rows]
            self._parquet.write_table(pa.table({"image": images, "label": labels}, schema=self.schema))
            self._groups += 1
            self._rows = []
        if self._groups == self.groups_per_shard:
            self.close()

    def close(self) -> None:
        """Finish the shard in progress."""
        if self._rows:
            self._flush()
        self.opened.close()
        self._parquet = None
        self._groups = 0


@contextmanager
def write_image_shards(
    folder: UPath, classes: Sequence[str], rows_per_group: int = 64, groups_per_shard: int = 64
) -> Iterator[ImageShardWriter]:
    """Yield a writer of image shards into ``folder``; the caller writes the :class:`ImageSet` manifest afterwards."""
    writer = ImageShardWriter(folder, classes, rows_per_group, groups_per_shard)
    with writer.opened:  # after an error the shard in progress is discarded
        yield writer
        writer.close()
