"""What a detector says of an image, and its written forms: lines for people, CSV, JSON lines, Parquet."""

import csv
import io
import json
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import IO, Any, ClassVar, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from mofe.artifacts.manifest import Manifest

Format = Literal["table", "csv", "jsonl", "parquet"]
ROWS_PER_GROUP = 10_000


@dataclass(frozen=True)
class Neighbour:
    """A known image near to the one in question."""

    image: str
    class_name: str
    distance: float


@dataclass(frozen=True)
class Verdict:
    """What a detector says of one image."""

    image: str
    known: bool
    """Whether the score reaches the threshold."""
    class_name: str
    """Of the known classes the likeliest, whether or not the image is of any."""
    expert: int
    probability: float
    """That the expert gives to the class."""
    score: float
    p_value: float
    """Share of known images that look at least as unusual."""
    neighbours: tuple[Neighbour, ...]


@dataclass(frozen=True)
class Unreadable:
    """A file that is no usable image."""

    image: str
    reason: str


class FileList(Manifest):
    """``files.json`` of the folder that lists the files of a batch: ``files.parquet``, a row group a shard."""

    file_name: ClassVar[str] = "files.json"
    what: ClassVar[str] = "list of files"
    num_files: int
    shards: int
    digest: str
    """Of the images and the detector, as survey found them."""


class VerdictSet(Manifest):
    """``verdicts.json`` of a folder with verdicts on many images.

    Beside it lie two Parquet data sets, a file a shard: ``verdicts`` (:data:`SCHEMA`) and ``unreadable``
    (:data:`UNREADABLE_SCHEMA`).
    """

    file_name: ClassVar[str] = "verdicts.json"
    what: ClassVar[str] = "set of verdicts"
    shards: tuple[int, ...]
    """Those that it holds, in the order of its files."""
    detector: str
    digest: str
    """Of the images and the detector, as survey found them."""
    threshold: str
    score: str
    known: dict[str, int]
    """Images by class, of those that are known."""
    unknown: int
    unreadable: int


SCHEMA = pa.schema(
    {
        "image": pa.string(),
        "known": pa.bool_(),
        "class": pa.string(),
        "expert": pa.int32(),
        "probability": pa.float64(),
        "score": pa.float64(),
        "p_value": pa.float32(),
        "neighbours": pa.list_(pa.struct({"image": pa.string(), "class": pa.string(), "distance": pa.float32()})),
    }
)
"""Columns of every form, in this order; CSV writes neighbours as ``image (class)`` separated by semicolons."""

UNREADABLE_SCHEMA = pa.schema({"image": pa.string(), "reason": pa.string()})


def row_of(verdict: Verdict) -> dict[str, Any]:
    """A verdict as a row of :data:`SCHEMA`."""
    near = [{"image": n.image, "class": n.class_name, "distance": n.distance} for n in verdict.neighbours]
    return {
        "image": verdict.image,
        "known": verdict.known,
        "class": verdict.class_name,
        "expert": verdict.expert,
        "probability": verdict.probability,
        "score": verdict.score,
        "p_value": verdict.p_value,
        "neighbours": near,
    }


def write(verdicts: Iterable[Verdict], stream: IO[bytes], form: Format) -> None:
    """Write verdicts as they come; the stream stays open."""
    pending = iter(verdicts)
    if form == "parquet":
        with pq.ParquetWriter(stream, SCHEMA) as table:
            while rows := [row_of(verdict) for verdict in islice(pending, ROWS_PER_GROUP)]:
                table.write_table(pa.Table.from_pylist(rows, SCHEMA))
        return
    text = io.TextIOWrapper(stream, "utf-8", newline="", line_buffering=True)
    if form == "jsonl":
        for verdict in pending:
            text.write(json.dumps(row_of(verdict), ensure_ascii=False, allow_nan=False) + "\n")
    elif form == "csv":
        lines = csv.writer(text, lineterminator="\n")
        lines.writerow(SCHEMA.names)
        for verdict in pending:
            near = "; ".join(f"{n.image} ({n.class_name})" for n in verdict.neighbours)
            lines.writerow({**row_of(verdict), "neighbours": near}.values())
    else:
        text.write(f"{'':7}  {'p':>5}  {'score':>9}  {'class':20}  {'prob.':>6}  image\n")
        for verdict in pending:
            text.write(_lines(verdict))
    text.detach()


def _lines(verdict: Verdict) -> str:
    head = (
        f"{'known' if verdict.known else 'UNKNOWN':7}  {verdict.p_value:5.3f}  {verdict.score:9.3f}  "
        f"{verdict.class_name:20}  {verdict.probability:6.1%}  {on_one_line(verdict.image)}\n"
    )
    near = (f"{'':27}{n.class_name:20}  {n.distance:6.3f}  {on_one_line(n.image)}\n" for n in verdict.neighbours)
    return head + "".join(near)


def on_one_line(name: str) -> str:
    """A file's name for people: line breaks and what else a terminal would obey are escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)
