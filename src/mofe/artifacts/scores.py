"""Scores and predictions of a detector on each image of an evaluation set."""

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
    """Pipeline parameters that the scores depend on."""
    zero_shot_accuracy: float | None = None
    """ID accuracy of the class whose text is nearest under the pre-trained backbone; None without texts, or on OOD."""


class ScorePart(ScoreInfo):
    """``part.json``: scores of some of the images of a set, made by one task of several; merge_scores joins them.

    Fields that are not declared here describe the whole set; merge_scores fills in ``zero_shot_accuracy``.
    """

    file_name: ClassVar[str] = "part.json"
    what: ClassVar[str] = "part of a score table"
    start: int
    """Position of the part's first image."""
    stop: int
    """Position after the part's last image."""
    threshold: float
    """Threshold of the KNN score; images next to it are borderline."""
    zero_shot_right: int | None
    """Number of images that count as right in ``zero_shot_accuracy``."""

    @property
    def whole(self) -> ScoreInfo:
        """The manifest of the whole set's scores."""
        own = {"files", "start", "stop", "threshold", "zero_shot_right"}
        return ScoreInfo.model_validate(self.model_dump(exclude=own))


SCORE_ROWS = 1 << 16
"""Images in a row group of scores."""


def score_schema(scores: Sequence[str]) -> pa.Schema:
    """Schema of scores; a higher score means more in-distribution.

    ``label`` is the index among the *model's* classes, -1 if the image is of none. Scores are float64, because in
    float32 the probabilities of confident images are all 1, and tie.
    """
    fixed = [("id", pa.string()), ("label", pa.int32()), ("predicted", pa.int32()), ("expert", pa.int32())]
    return pa.schema([*fixed, *((name, pa.float64()) for name in scores)])


@contextmanager
def write_scores(file: IO[bytes], scores: Sequence[str]) -> Iterator[Callable[[pa.Table], None]]:
    """Yield a function that appends tables of :func:`score_schema`, in row groups of :data:`SCORE_ROWS`."""
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
"""Schema of the gallery of JPEG thumbnails.

``kind`` is accepted (OOD images with the highest scores), rejected (ID images with the lowest scores), misclassified
(wrongly predicted ID images with the highest scores) or borderline (images whose score is nearest to the threshold).
``nearest`` is the known image nearest to the image.
"""


def embedding_schema(dim: int) -> pa.Schema:
    """Schema of a sample's embeddings: ``before`` of the pre-trained backbone, ``after`` of the fine-tuned model."""
    vector = pa.list_(pa.float16(), dim)
    return pa.schema([("label", pa.int32()), ("expert", pa.int32()), ("before", vector), ("after", vector)])


class ScoreTable:
    """Reader of the scores of one evaluation set."""

    TABLE, GALLERY, EMBEDDINGS = "scores.parquet", "gallery.parquet", "embeddings.parquet"

    def __init__(self, uri: str | UPath):
        self.uri = locations.resolve(uri)
        self.info = ScoreInfo.read(self.uri)

    @cached_property
    def table(self) -> pa.Table:
        """Table of :func:`score_schema`, with one row per image."""
        table = self._read(self.TABLE)
        if table.num_rows != self.info.num_images:
            raise MofeError(
                f"{self.uri}: {self.TABLE} has {table.num_rows} rows, but scores.json says {self.info.num_images}; "
                "make the score table again"
            )
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
