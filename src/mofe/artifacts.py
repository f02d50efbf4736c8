"""What one stage hands to the next: one class an artifact, with its schema, its writer and its reader.

An artifact is a folder (or, for the partition, a folder with one JSON file). Tables are Parquet, everything else JSON,
safetensors or a FAISS index; nothing is pickled. A folder's JSON manifest is written last, so a folder with a manifest
is whole. Every manifest carries ``schema_version``; a reader refuses a version it does not know.

A manifest also holds the SHA-256 of every other file of the folder, those of the artifacts it was made from, and, in
its last line, its own. A reader checks each file before it uses it, so that one changed byte is an error and never a
number; and a stage refuses inputs that do not belong together.

Axes in names: N images, C classes, D features of the backbone, E experts, K = C + 1 ("others" last).
"""

import json
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import IO, Any, ClassVar, Literal, Self, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, PrivateAttr, ValidationError
from upath import UPath

from mofe import storage
from mofe.errors import MofeError

T = TypeVar("T")
THREADS = 16
"""That read small pieces of many files at once."""

Role = Literal["train", "test", "ood"]
"""What an image set is for: training, ID test, or OOD test."""

RouterKind = Literal["cluster", "class"]
"""What the router has an output for."""

Bank = Literal["expert", "global"]
"""Whose images a KNN score looks among: those of the expert that an image is routed to, or all."""


class Manifest(BaseModel):
    """The JSON file that makes a folder an artifact."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    file_name: ClassVar[str]
    what: ClassVar[str]
    schema_version: Literal[2] = 2
    files: dict[str, str] = {}
    """SHA-256 of every other file of the folder, by name; :meth:`write` fills it in."""
    made_from: dict[str, str] = {}
    """:attr:`identity` of the artifacts it was made from, by what they are."""
    _identity: str = PrivateAttr("")

    @property
    def identity(self) -> str:
        """SHA-256 of the manifest, and so of all that it lists; "" of one that was not read."""
        return self._identity

    def sealed(self) -> bytes:
        """The content of the file."""
        return storage.sealed(self.model_dump(mode="json"))

    def write(self, folder: UPath) -> None:
        """Write the manifest into ``folder``; call it after every other file is there."""
        whole = self.model_copy(update={"files": storage.written(folder)})
        storage.write_bytes(folder / self.file_name, whole.sealed())

    @classmethod
    def read(cls, uri: storage.Location) -> Self:
        """Read and validate the manifest of the artifact at ``uri``; errors as for :meth:`read_file`."""
        return cls.read_file(storage.resolve(uri) / cls.file_name)

    @classmethod
    def read_file(cls, file: storage.Location) -> Self:
        """Read and validate a manifest that is a file of its own.

        Raises:
            MofeError: it is missing, not JSON, of another schema version, breaks the schema, or is damaged.
        """
        path = storage.resolve(file)
        content = storage.read_bytes(path, cls.what)
        try:
            values, identity = storage.unsealed(content)
            found = cls.model_validate(values)
        except (ValidationError, ValueError) as error:
            first = error.errors()[0] if isinstance(error, ValidationError) else None
            reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}" if first else str(error)
            raise MofeError(f"{path} is not a valid {cls.what}: {reason}") from error
        if not identity:
            raise MofeError(f"{path} is damaged: it does not have the SHA-256 that it notes; make the {cls.what} again")
        found._identity = identity
        return found

    def check(self, folder: UPath, names: str = "*", copy: Path | None = None) -> None:
        """Hash files of the artifact and compare.

        Args:
            folder: where the artifact is.
            names: pattern of the files to check.
            copy: a copy of the folder to read them from.

        Raises:
            MofeError: one is missing, or is not what was written.
        """
        chosen = [name for name in self.files if fnmatchcase(name, names)]
        if not chosen:
            raise MofeError(f"{folder / self.file_name} lists no file {names}: make the {self.what} again")

        def check_one(name: str) -> None:
            if storage.sha256((copy or folder) / name) != self.files[name]:
                raise MofeError(
                    f"{folder / name} is damaged, or belongs to another {self.what}: its SHA-256 is not the one in "
                    f"{self.file_name}; make the {self.what} again"
                )

        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(check_one, chosen))

    def check_source(self, what: str, source: "Manifest") -> bool:
        """Whether this was made from ``source``, as far as it is known."""
        return self.made_from.get(what, source.identity) == source.identity


# ---------------------------------------------------------------------------------------------------- image shards


class Rejected(BaseModel):
    """A file that could not be used, and why."""

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
    """WordNet synset of each class where the data says so (a wnid, or a line of ``synsets.csv``), else None."""
    counts: tuple[int, ...]
    num_images: int
    num_rejected: int
    rejected: tuple[Rejected, ...]
    """The first of them."""
    parameters: dict[str, Any]
    """Of prepare, that decided what is in it."""


def image_schema(classes: Sequence[str]) -> pa.Schema:
    """The Arrow schema of image shards: Hugging Face's, including its ``huggingface`` metadata."""
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
        """Append one encoded image; ``label`` -1 means that it has none."""
        if label >= 0:
            self.counts[label] += 1
        self.num_images += 1
        self._rows.append((content, path, label))
        if len(self._rows) == self.rows_per_group:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            if self._parquet is None:
                file = self.opened.enter_context(storage.writing(self.folder / f"images-{self._shards:05d}.parquet"))
                # encoded images do not shrink, and a dictionary of distinct values is a cost without a gain
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
    """A writer of image shards into ``folder``; the caller writes the :class:`ImageSet` manifest afterwards."""
    writer = ImageShardWriter(folder, classes, rows_per_group, groups_per_shard)
    with writer.opened:  # after an error the shard in progress is given up
        yield writer
        writer.close()


class ImageShards:
    """The images of a set, read by row group in bounded memory.

    On this machine every shard is hashed when the set is opened. In an object store, where that would be to fetch all
    of it once more, Parquet's own checksum of each page is compared as the page is read.

    Args:
        uri: of the set.
        hashed: False leaves it at the checksums of pages on this machine too: for who reads a few images, or where
            another process hashes them.
    """

    HELD = 64
    """How many row groups are kept in memory for :meth:`image`."""

    def __init__(self, uri: str | UPath, hashed: bool = True):
        self.uri = storage.resolve(uri)
        self.info = ImageSet.read(self.uri)
        if hashed and storage.is_local(self.uri):
            self.info.check(self.uri)
        self._held: OrderedDict[int, tuple[pa.Array, pa.Array]] = OrderedDict()

    def __len__(self) -> int:
        return self.info.num_images

    @cached_property
    def files(self) -> list[UPath]:
        """The shards, in order."""
        return storage.children(self.uri, "images-*.parquet")

    @cached_property
    def footers(self) -> list[pq.FileMetaData]:
        """The footer of each shard, read once."""
        return self._of_every_file(lambda parquet: parquet.metadata)

    @cached_property
    def row_groups(self) -> list[tuple[int, int, int]]:
        """``(file, row group in the file, rows)`` of every row group, in order.

        Raises:
            MofeError: the shards together do not hold the images that the manifest promises.
        """
        groups = []
        for number, metadata in enumerate(self.footers):
            groups += [(number, i, metadata.row_group(i).num_rows) for i in range(metadata.num_row_groups)]
        found = sum(rows for _, _, rows in groups)
        if found != self.info.num_images:
            raise MofeError(f"{self.uri}: dataset.json promises {self.info.num_images} images, the shards hold {found}")
        return groups

    @cached_property
    def starts(self) -> np.ndarray:
        """The position of the first image of each row group, and the number of images."""
        return np.concatenate([[0], np.cumsum([rows for _, _, rows in self.row_groups])])

    def image(self, position: int) -> tuple[bytes, str, int]:
        """File content, path and label of one image; quick where accesses stay within :attr:`HELD` row groups."""
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
        """The table (columns ``image``, ``label``) of row group ``index`` of the whole set."""
        number, group, _ = self.row_groups[index]
        with storage.open_parquet(self.files[number], self.footers[number]) as parquet:
            return parquet.read_row_group(group)

    def _of_every_file(self, read: Callable[[pq.ParquetFile], T]) -> list[T]:
        """What ``read`` makes of each shard, in order; many at once, since a store takes its time for each answer."""

        def one(path: UPath) -> T:
            with storage.open_parquet(path) as parquet:
                return read(parquet)

        with ThreadPoolExecutor(THREADS) as pool:
            return list(pool.map(one, self.files))

    @cached_property
    def labels_N(self) -> np.ndarray:
        """The label of every image in order, int64."""
        columns = self._of_every_file(lambda parquet: parquet.read(columns=["label"])["label"].to_numpy())
        return np.concatenate(columns) if columns else np.empty(0, np.int64)

    @cached_property
    def paths(self) -> pa.ChunkedArray:
        """The path of every image in order: what later tables call ``id``."""
        columns = self._of_every_file(lambda parquet: parquet.read(columns=["image.path"])["image"])
        chunks = [chunk.field("path") for column in columns for chunk in column.chunks]
        return pa.chunked_array(chunks, pa.string())


# -------------------------------------------------------------------------------------------------------- features


class Preprocessing(BaseModel):
    """How an image becomes the backbone's input: the backbone's own (timm's data config), nothing else decides it."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str
    crop_fraction: float


class Backbone(BaseModel):
    """Which vision transformer, from which weights, and where the MoFE layer begins in it."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    """A timm name or ``hf-hub:`` address."""
    args: dict[str, Any]
    """Further arguments of ``timm.create_model``."""
    weights: str
    """"" for timm's pre-trained weights, "random" for none, else the path or URI of a file."""
    weights_digest: str
    depth: int
    """Number of last blocks that become experts (M)."""
    preprocessing: Preprocessing


class FeatureInfo(Manifest):
    """The manifest ``features.json`` of extracted features."""

    file_name: ClassVar[str] = "features.json"
    what: ClassVar[str] = "feature set"
    backbone: Backbone
    dim: int
    num_images: int
    classes: tuple[str, ...]
    synsets: tuple[str | None, ...]


class FeaturePart(FeatureInfo):
    """``part.json``: features of some of the images, from one task of several; stack joins them.

    Beside them lie sums in the place of prototypes (:class:`mofe.partitioning.prototypes.ClassSums`). All fields but
    those here are the whole's.
    """

    file_name: ClassVar[str] = "part.json"
    what: ClassVar[str] = "part of a feature set"
    start: int
    """The first of the images."""
    stop: int
    """The one after the last."""

    @property
    def whole(self) -> FeatureInfo:
        """The manifest of what it is a part of."""
        return FeatureInfo.model_validate(self.model_dump(exclude={"files", "start", "stop"}))


FEATURE_ROWS = 4096
"""Images in a row group of features."""


def feature_schema(dim: int) -> pa.Schema:
    """``trunk``: class embedding entering the MoFE block; ``embedding``: the final class embedding."""
    vector = pa.list_(pa.float16(), dim)
    return pa.schema([("id", pa.string()), ("label", pa.int32()), ("trunk", vector), ("embedding", vector)])


@contextmanager
def write_features(file: IO[bytes], dim: int) -> Iterator[Callable[[pa.Table], None]]:
    """A function that appends tables of :func:`feature_schema`; row groups of :data:`FEATURE_ROWS`.

    Vectors are written as they are: a dictionary of numbers that never repeat, compressed, is as large, and takes five
    times as long to read and to write.
    """
    with (
        pq.ParquetWriter(
            file,
            feature_schema(dim),
            compression="none",
            use_dictionary=["id", "label"],
            write_statistics=["id", "label"],
        ) as parquet,
        _row_groups(parquet, FEATURE_ROWS) as write,
    ):
        yield write


@contextmanager
def _row_groups(parquet: pq.ParquetWriter, rows: int) -> Iterator[Callable[[pa.Table], None]]:
    """A function that appends tables of any size; row groups of ``rows``, so the sizes leave no trace."""
    waiting: list[pa.Table] = []

    def write(table: pa.Table) -> None:
        waiting.append(table)
        while sum(map(len, waiting)) >= rows:
            together = pa.concat_tables(waiting)
            parquet.write_table(together.slice(0, rows).combine_chunks())
            waiting[:] = [together.slice(rows)]

    yield write
    if sum(map(len, waiting)):
        parquet.write_table(pa.concat_tables(waiting).combine_chunks())


def vectors(column: pa.ChunkedArray) -> np.ndarray:
    """The N × D numpy array of a fixed-size-list column."""
    array = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()  # which copies a single one, too
    return np.asarray(array.flatten().to_numpy(zero_copy_only=False)).reshape(len(array), column.type.list_size)


def fixed_size_lists(values_ND: np.ndarray, dtype: pa.DataType) -> pa.FixedSizeListArray:
    """The fixed-size-list column of an N × D numpy array.

    Raises:
        MofeError: a value is not finite, or too large for the type.
    """
    with np.errstate(over="ignore"):
        flat_M = np.ascontiguousarray(values_ND).reshape(-1).astype(f"f{dtype.bit_width // 8}")
    bad = np.flatnonzero(~np.isfinite(flat_M))
    if bad.size:
        row, column = divmod(int(bad[0]), values_ND.shape[1])
        raise MofeError(f"row {row}, column {column}: {values_ND[row, column]:g} does not fit into {dtype}")
    flat = pa.array(flat_M, dtype)
    return pa.FixedSizeListArray.from_arrays(flat, values_ND.shape[1])


class Features:
    """Extracted features of the training images, and the prototypes of their classes."""

    TABLE, PROTOTYPES = "features.parquet", "prototypes.parquet"
    SUMS = "sums.parquet"
    """Of a part, in the place of prototypes."""

    def __init__(self, uri: str | UPath):
        self.uri = storage.resolve(uri)
        self.info = FeatureInfo.read(self.uri)

    @cached_property
    def prototypes_CD(self) -> np.ndarray:
        """Mean trunk embedding of each class, float32."""
        self.info.check(self.uri, self.PROTOTYPES)
        return vectors(storage.read_parquet(self.uri / self.PROTOTYPES)["prototype"])

    def column(self, name: Literal["trunk", "embedding"]) -> np.ndarray:
        """That vector of each image, (N, D) float16 as stored; read row group by row group, and held once."""
        values_ND = np.empty((self.info.num_images, self.info.dim), np.float16)
        start = 0
        with storage.open_parquet(self._table) as table:
            if table.metadata.num_rows != len(values_ND):
                raise MofeError(
                    f"{self.uri}: features.json promises {len(values_ND)} images, found {table.metadata.num_rows}"
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


# ------------------------------------------------------------------------------------------------------- partition


class Seed(BaseModel):
    """A super-category from which an expert's cluster was grown: a WordNet synset and the classes under it."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    synset: str
    classes: tuple[int, ...]


class Partition(Manifest):
    """Which expert each class belongs to, and how that came about."""

    file_name: ClassVar[str] = "partition.json"
    what: ClassVar[str] = "partition"
    num_experts: int
    strategy: str
    classes: tuple[str, ...]
    synsets: tuple[str | None, ...]
    names: tuple[str, ...]
    """A name people read for each class: the synset's first lemma, else the class name itself."""
    expert_of_class: tuple[int, ...]
    seeds: tuple[Seed, ...]
    """One per expert, in order of experts; empty for strategies that do not start from WordNet."""
    centers: tuple[tuple[float, ...], ...]
    inertia: float
    iterations: int

    @classmethod
    def of_one_expert(cls, classes: tuple[str, ...]) -> Self:
        """The trivial partition: with one expert, a MoFE that was not trained is the backbone itself."""
        return cls(
            num_experts=1,
            strategy="one expert",
            classes=classes,
            synsets=(None,) * len(classes),
            names=classes,
            expert_of_class=(0,) * len(classes),
            seeds=(),
            centers=(),
            inertia=0.0,
            iterations=0,
        )

    def classes_of(self, expert: int) -> list[int]:
        """The class indices of ``expert``'s cluster, ascending."""
        return [c for c, e in enumerate(self.expert_of_class) if e == expert]


# ----------------------------------------------------------------------------------------------------------- texts


LOCAL_MODEL = "local-dir:"
"""What the name of a text model begins with if it lies in a folder; the rest is its path or URI."""


class TextInfo(Manifest):
    """``texts.json``: what a language-image model was asked to embed; the embeddings are :mod:`mofe.detection.texts`.

    Names and negatives are empty where there is no such model.
    """

    file_name: ClassVar[str] = "texts.json"
    what: ClassVar[str] = "set of texts"
    digest: str
    """Of the files that model, weights and given embeddings are read from; "" where they are not files."""
    backbone: Backbone
    """Whose embeddings are comparable with the texts."""
    classes: tuple[str, ...]
    names: tuple[str, ...]
    """The classes as the prompts call them."""
    negatives: tuple[str, ...]
    """Words that are far from the classes, group after group."""
    parameters: dict[str, Any]
    """Of the pipeline, that decided what is in it."""

    @property
    def model(self) -> str:
        """As open_clip calls it; "" for none."""
        return str(self.parameters["text_model"])


# ---------------------------------------------------------------------------------------------- model and detector


class ModelConfig(Manifest):
    """``config.json`` of a trained model."""

    file_name: ClassVar[str] = "config.json"
    what: ClassVar[str] = "model"
    library_version: str
    backbone: Backbone
    top_k: int
    router: RouterKind = "cluster"
    partition: Partition
    validation_fraction: float
    seed: int
    training: dict[str, Any]
    """The finetune stage's own parameters."""


class Epoch(BaseModel):
    """What was measured at the end of a training epoch; epoch 0 is the state after the linear probe."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    epoch: int
    learning_rate: float
    loss: float
    route_loss: float
    expert_loss: float
    regulariser: float
    validation_accuracy: float
    router_accuracy: float
    class_accuracy: tuple[float, ...]
    sigma: tuple[float, ...]
    images_per_second: float


class History(Manifest):
    """``history.json``: the course of a training run."""

    file_name: ClassVar[str] = "history.json"
    what: ClassVar[str] = "training history"
    epochs: tuple[Epoch, ...]


class DetectorInfo(Manifest):
    """``detector.json``: a model with one FAISS index per expert, and thresholds."""

    file_name: ClassVar[str] = "detector.json"
    what: ClassVar[str] = "detector"
    knn_k: int
    bank: Bank = "expert"
    bank_sizes: tuple[int, ...]
    """Training images of each expert."""
    thresholds: dict[str, float]
    """Per score: the largest threshold that keeps at least 95 % of the validation images."""
    num_validation: int
    compared: tuple[str, ...] = ()
    """Scores of other detectors, which it can give as well: see :mod:`mofe.detection.comparison`."""
    parameters: dict[str, Any]
    """Of the pipeline, that decided what it is."""


# ---------------------------------------------------------------------------------------------------------- scores


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
    """``part.json``: scores of some of the images of a set, from one task of several; merge joins them.

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
    with pq.ParquetWriter(file, score_schema(scores)) as parquet, _row_groups(parquet, SCORE_ROWS) as write:
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
        self.uri = storage.resolve(uri)
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
        return storage.read_parquet(self.uri / name)


# --------------------------------------------------------------------------------------------------------- metrics


class Result(BaseModel):
    """One row of the result table: an OOD set under a score. Fractions in [0, 1]."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    ood: str
    score: str
    fpr95: float
    auroc: float
    aupr_in: float
    aupr_out: float
    fpr95_ood_positive: float
    fpr95_interval: tuple[float, float] | None = None
    """Bootstrap 95 % confidence interval over the draw of the images."""
    auroc_interval: tuple[float, float] | None = None

    @property
    def is_own(self) -> bool:
        """Whether the score is the detector's own, and not one of those it is compared with (``SPACE.NAME``)."""
        return "." not in self.score


class ExpertResult(BaseModel):
    """How one expert does. None where it has seen no image of a kind."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    expert: int
    id_images: int
    """Of the ID test set, of its classes."""
    id_accuracy: float | None
    ood_images: int
    """Of all OOD sets, that the router sent to it."""
    fpr95: float | None
    """Of the KNN score, among the ID and OOD images that the router sent to it."""
    auroc: float | None


class Metrics(Manifest):
    """``metrics.json`` of a run."""

    file_name: ClassVar[str] = "metrics.json"
    what: ClassVar[str] = "metrics file"
    name: str = ""
    """Of the configuration, where several are compared."""
    id_accuracy: float
    router_accuracy: float
    zero_shot_accuracy: float | None = None
    """Of the untouched backbone and the class names alone, where there is a text model."""
    results: tuple[Result, ...]
    experts: tuple[ExpertResult, ...] = ()
    class_accuracy: dict[str, float] = {}
    """Of the classes that the ID test set has images of."""
    kinds: dict[str, str] = {}
    """Of OOD sets, "near" or "far", where that was said."""
    parameters: dict[str, Any] = {}
    """Of the pipeline, that gave this result."""

    @property
    def own(self) -> tuple[Result, ...]:
        """The results of the detector's own scores."""
        return tuple(result for result in self.results if result.is_own)

    @property
    def averages(self) -> dict[str, list[str]]:
        """The averages to be shown and the OOD sets of each: near-OOD and far-OOD where there are such, and all."""
        sets = list(dict.fromkeys(result.ood for result in self.results))
        groups = {
            f"average of {kind}-OOD": [name for name in sets if self.kinds.get(name) == kind]
            for kind in ("near", "far")
        }
        return {name: group for name, group in groups.items() if group} | ({"average": sets} if sets[1:] else {})
