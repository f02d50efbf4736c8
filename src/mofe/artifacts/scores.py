"""What a detector said of each image of an evaluation set."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import IO, Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
from upath import UPath

from mofe.artifacts.image_set import Role
from mofe.artifacts.manifest import Manifest
from mofe.artifacts.tables import in_row_groups
from mofe.errors import MofeError
from mofe.storage import locations


class ScoreInfo(Manifest):
    """``scores.json``: the manifest of the scores of one evaluation set."""

    file_name: ClassVar[str] = "scores.json"
    what: ClassVar[str] = "score table"
    dataset: str
    role: Role
    scores: tuple[str, ...]
    num_images: int
    parameters: dict[str, Any]
    """Of the pipeline, that decided what is in it."""
    zero_shot_accuracy: float | None = None
    """Of the ID test set, where a detector has texts: the class whose text is nearest, under the untouched backbone."""


class ScorePart(ScoreInfo):
    """``part.json``: scores of some of the images of a set, from one task of several; merge_scores joins them.

    All fields but those here are the whole's; ``zero_shot_accuracy`` is left to it.
    """

    file_name: ClassVar[str] = "part.json"
    what: ClassVar[str] = "part of a score table"
    start: int
    """The first of the images."""
    stop: int
    """The one after the last."""
    threshold: float
    """Of the KNN score: next to it an image is borderline."""
    zero_shot_right: int | None
    """Images of which ``zero_shot_accuracy`` is the share."""

    @property
    def whole(self) -> ScoreInfo:
        """The manifest of what it is a part of."""
        own = {"files", "start", "stop", "threshold", "zero_shot_right"}
        return ScoreInfo.model_validate(self.model_dump(exclude=own))


SCORE_ROWS = 1 << 16
"""Images in a row group of scores."""


def score_schema(scores: Sequence[str]) -> pa.Schema:
    """``label`` is the index among the *model's* classes, -1 where the image is of none; higher scores = more ID.

    Scores are float64: in float32 probabilities of sure images are all 1, and tie.
    """
    fixed = [("id", pa.string()), ("label", pa.int32()), ("predicted", pa.int32()), ("expert", pa.int32())]
    return pa.schema([*fixed, *((name, pa.float64()) for name in scores)])


@contextmanager
def write_scores(file: IO[bytes], scores: Sequence[str]) -> Iterator[Callable[[pa.Table], None]]:
    """A function that appends tables of :func:`score_schema`; row groups of :data:`SCORE_ROWS`."""
    with pq.ParquetWriter(file, score_schema(scores)) as parquet, in_row_groups(parquet, SCORE_ROWS) as write:
        yield write


GALLERY_SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "kind": pa.string(),
        "nearest": pa.string(),
        "nearest_label": pa.int32(),
        "thumbnail": pa.binary(),
        "label": pa.int32(),
        "predicted": pa.int32(),
        "expert": pa.int32(),
        "knn": pa.float32(),
    }
)
"""JPEG thumbnails; ``kind``: accepted (OOD image that looks most ID), rejected (ID image that looks most OOD),
misclassified (ID image of another class than predicted, with the highest score), borderline (nearest to the threshold).
``nearest`` is the known image next to it."""


def embedding_schema(dim: int) -> pa.Schema:
    """A sample of the set in feature space: the untouched backbone's embedding, and the fine-tuned model's."""
    vector = pa.list_(pa.float16(), dim)
    return pa.schema([("label", pa.int32()), ("expert", pa.int32()), ("before", vector), ("after", vector)])


class ScoreTable:
    """The scores of one evaluation set."""

    TABLE, GALLERY, EMBEDDINGS = "scores.parquet", "gallery.parquet", "embeddings.parquet"

    def __init__(self, uri: str | UPath):
        self.uri = locations.resolve(uri)
        self.info = ScoreInfo.read(self.uri)

    @cached_property
    def table(self) -> pa.Table:
        """One row an image, of :func:`score_schema`."""
        table = self._read(self.TABLE)
        if table.num_rows != self.info.num_images:
            raise MofeError(f"{self.uri}: scores.json promises {self.info.num_images} rows, found {table.num_rows}")
        return table

    @cached_property
    def gallery(self) -> pa.Table:
        """Thumbnails of :data:`GALLERY_SCHEMA`."""
        return self._read(self.GALLERY)

    @cached_property
    def embeddings(self) -> pa.Table:
        """A sample of :func:`embedding_schema`."""
        return self._read(self.EMBEDDINGS)

    def _read(self, name: str) -> pa.Table:
        self.info.check(self.uri, name)
        return locations.read_parquet(self.uri / name)
