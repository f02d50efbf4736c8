"""The prediction for an image, and its output formats: a table for people, CSV, JSON lines, Parquet."""

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import IO, Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

Format = Literal["table", "csv", "jsonl", "parquet"]
ROWS_PER_GROUP = 10_000


@dataclass(frozen=True)
class Neighbour:
    """A known image near the scored image."""

    image: str
    class_name: str
    distance: float


@dataclass(frozen=True)
class Prediction:
    """A detector's output for one image."""

    image: str
    known: bool
    """Whether the score reaches the threshold."""
    class_name: str
    """The most likely known class, even if the image is unknown."""
    expert: int
    probability: float
    """The expert's probability of the class."""
    score: float
    p_value: float
    """Share of known images that are at least as unusual."""
    neighbours: tuple[Neighbour, ...]


@dataclass(frozen=True)
class Unreadable:
    """A file that cannot be used as an image."""

    image: str
    reason: str
    passed_over: bool = False
    """Whether a folder or glob brought along a file of another kind, such as text; such a file is not an error."""


@dataclass
class Counts:
    """Numbers of known images by class, of unknown images and of unreadable files."""

    known: Counter[str] = field(default_factory=Counter)
    unknown: int = 0
    unreadable: int = 0
    passed_over: int = 0
    """Files of other kinds that a folder or glob brought along."""

    def count(
        self, found: Iterable[Prediction | Unreadable], on_unreadable: Callable[[Unreadable], None]
    ) -> Iterator[Prediction]:
        """Count everything in ``found``; yield the predictions, and pass unreadable files to ``on_unreadable``."""
        for item in found:
            if isinstance(item, Unreadable):
                self.passed_over += item.passed_over
                self.unreadable += not item.passed_over
                on_unreadable(item)
                continue
            if item.known:
                self.known[item.class_name] += 1
            else:
                self.unknown += 1
            yield item

    def totals(self) -> dict[str, int]:
        """Numbers of ``known``, ``unknown`` and ``unreadable`` images."""
        return {"known": self.known.total(), "unknown": self.unknown, "unreadable": self.unreadable}


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
"""Columns of every format, in this order; CSV writes neighbours as ``image (class)`` separated by semicolons."""

UNREADABLE_SCHEMA = pa.schema({"image": pa.string(), "reason": pa.string()})


def row_of(prediction: Prediction) -> dict[str, Any]:
    """Convert a prediction to a row of :data:`SCHEMA`."""
    near = [{"image": n.image, "class": n.class_name, "distance": n.distance} for n in prediction.neighbours]
    return {
        "image": prediction.image,
        "known": prediction.known,
        "class": prediction.class_name,
        "expert": prediction.expert,
        "probability": prediction.probability,
        "score": prediction.score,
        "p_value": prediction.p_value,
        "neighbours": near,
    }


def write(predictions: Iterable[Prediction], stream: IO[bytes], form: Format) -> None:
    """Write each prediction as soon as it is made; the stream stays open."""
    pending = iter(predictions)
    if form == "parquet":
        with pq.ParquetWriter(stream, SCHEMA) as table:
            while rows := [row_of(prediction) for prediction in islice(pending, ROWS_PER_GROUP)]:
                table.write_table(pa.Table.from_pylist(rows, SCHEMA))
        return
    text = io.TextIOWrapper(stream, "utf-8", newline="", line_buffering=True)
    if form == "jsonl":
        for prediction in pending:
            text.write(json.dumps(row_of(prediction), ensure_ascii=False, allow_nan=False) + "\n")
    elif form == "csv":
        lines = csv.writer(text, lineterminator="\n")
        lines.writerow(SCHEMA.names)
        for prediction in pending:
            near = "; ".join(f"{n.image} ({n.class_name})" for n in prediction.neighbours)
            lines.writerow({**row_of(prediction), "neighbours": near}.values())
    else:
        text.write(f"{'':7}  {'p':>5}  {'score':>9}  {'class':20}  {'prob.':>6}  image\n")
        for prediction in pending:
            text.write(_lines(prediction))
    text.detach()


def _lines(prediction: Prediction) -> str:
    head = (
        f"{'known' if prediction.known else 'UNKNOWN':7}  {prediction.p_value:5.3f}  {prediction.score:9.3f}  "
        f"{prediction.class_name:20}  {prediction.probability:6.1%}  {on_one_line(prediction.image)}\n"
    )
    near = (f"{'':27}{n.class_name:20}  {n.distance:6.3f}  {on_one_line(n.image)}\n" for n in prediction.neighbours)
    return head + "".join(near)


def on_one_line(name: str) -> str:
    """Escape line breaks and other control characters in a file's name, because a terminal would act on them."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)
