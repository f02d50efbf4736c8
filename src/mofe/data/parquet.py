"""Images in Parquet files, as Hugging Face writes them: a column ``image``, and a column ``label`` of integers.

Each file names its own classes, so files that number them differently are read rightly.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from upath import UPath

from mofe.data.entries import LabelledImage
from mofe.data.memory_limit import limit_memory
from mofe.data.source import Source, check_names, class_name, merged_forms
from mofe.errors import MofeError
from mofe.storage import locations

MAX_CLASSES = 1_000_000
"""Largest number of classes that have numbers for names."""


class Footer(NamedTuple):
    """Contents of the footer of a Parquet file."""

    file: UPath
    rows: int
    columns: tuple[str, ...]
    label: Any
    """Arrow type of the column ``label``; None without one."""
    names: tuple[str, ...] | None
    """Names of Hugging Face's ClassLabel."""


def open_parquet_files(files: Sequence[UPath], uri: str, labelled: bool) -> Source:
    """Open Parquet files as one source.

    Args:
        files: the files.
        uri: what to call them in messages.
        labelled: whether labels are needed; without need, rows may have any label or none.

    Raises:
        MofeError: there are no images; or labels are needed, and they are no integers, or the files disagree on them.
    """
    footers = [_footer(file) for file in files]
    total = sum(footer.rows for footer in footers)
    if total == 0:
        raise MofeError(f"there are no images in {uri}")
    classes, notes = (_checked if labelled else _guessed)(footers, uri)
    index = {name: c for c, name in enumerate(classes)}

    def images() -> Iterator[LabelledImage]:
        for footer in footers:
            names = footer.names or classes
            label_C = [index.get(class_name(name), -1) for name in names]
            yield from _images(footer, label_C, labelled)

    columns = ", ".join(footers[0].columns)
    return Source(
        classes, total, images, notes=notes, in_place_of_labels="" if classes else f"its columns are {columns}"
    )


def _footer(file: UPath) -> Footer:
    with locations.open_parquet(file) as parquet:
        schema: pa.Schema = parquet.schema_arrow
        rows = int(parquet.metadata.num_rows)
    kind = schema.field("image").type if "image" in schema.names else None
    is_struct = kind is not None and pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0
    if kind is None or not (is_struct or pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        found = ", ".join(f"{f.name}: {f.type}" for f in schema)
        raise MofeError(
            f"{file}: expected a column image: struct<bytes, path> (or binary) and label: int64; found {found}"
        )
    label = schema.field("label").type if "label" in schema.names else None
    return Footer(file, rows, tuple(schema.names), label, _class_names(schema))


def _class_names(schema: pa.Schema) -> tuple[str, ...] | None:
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return tuple(str(name) for name in features["label"]["names"]) or None
    except (KeyError, TypeError, ValueError):
        return None


def _checked(footers: list[Footer], uri: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The classes that the files agree on, and notes.

    Raises:
        MofeError: they do not agree.
    """
    first = footers[0]
    for footer in footers:
        if footer.label is not None and not pa.types.is_integer(footer.label):
            raise MofeError(f"{footer.file}: the column label must be an integer, found {footer.label}")
        _check_alike(first, footer, "a column label", footer.label is None, first.label is None)
        _check_alike(first, footer, "names of classes", footer.names is None, first.names is None)
    if first.label is None:
        return (), ()
    if first.names is None:
        return _numbers(footers, uri), ()
    for footer in footers:
        check_names(footer.names or (), str(footer.file))
    return _united(footers, uri)


def _check_alike(first: Footer, other: Footer, what: str, other_lacks: bool, first_lacks: bool) -> None:
    if other_lacks != first_lacks:
        having, lacking = (first, other) if other_lacks else (other, first)
        raise MofeError(f"{having.file} has {what}, {lacking.file} has none: write both in the same way")


def _guessed(footers: list[Footer], uri: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The classes of images whose labels do not matter: those that have names."""
    return _united([footer for footer in footers if footer.names and footer.label is not None], uri)


def _united(footers: list[Footer], uri: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of all files in the order in which they first occur, and a note where the files differ."""
    texts = [name for footer in footers for name in footer.names or ()]
    classes = tuple(dict.fromkeys(map(class_name, texts)))
    notes = merged_forms(texts, uri)
    if other := next((footer for footer in footers if footer.names != footers[0].names), None):
        notes += (
            f"{footers[0].file.name} and {other.file.name} number their classes differently; the labels of each file "
            "are read by its own names",
        )
    return classes, notes


def _numbers(footers: list[Footer], uri: str) -> tuple[str, ...]:
    tops = [_highest_label(footer.file) for footer in footers]
    highest = max((top for top in tops if top is not None), default=-1)
    if highest >= MAX_CLASSES:
        raise MofeError(
            f"{uri} has the label {highest}, and no names of classes: number the classes from 0, without gaps"
        )
    return tuple(str(c) for c in range(highest + 1))


def _highest_label(file: UPath) -> int | None:
    """The highest label of a Parquet file; None if no row has a label."""
    with locations.open_parquet(file) as parquet, limit_memory(file):
        highest: int | None = pc.max(parquet.read(["label"])["label"]).as_py()
        return highest


def _images(footer: Footer, label_C: list[int], labelled: bool) -> Iterator[LabelledImage]:
    """Yield the rows of a file.

    Args:
        footer: the file.
        label_C: index into the source's classes of each of the file's own.
        labelled: whether a label that is none of these is an error.
    """
    file, row = footer.file, 0
    has_labels = bool(label_C) and footer.label is not None and pa.types.is_integer(footer.label)
    with locations.open_parquet(file) as parquet:
        for batch in _batches(parquet, ["image", *(["label"] if has_labels else [])], file):
            labels = batch["label"].to_pylist() if has_labels else [None] * len(batch)
            for value, label in zip(batch["image"], labels, strict=True):
                known = label is not None and 0 <= label < len(label_C)
                if labelled and has_labels and not known:
                    raise MofeError(f"{file}, row {row}: label {label} is not one of 0 to {len(label_C) - 1}")
                yield _image(value, label_C[label] if known else -1, f"{file.name}#{row}")
                row += 1


def _batches(parquet: pq.ParquetFile, columns: list[str], file: UPath) -> Iterator[pa.RecordBatch]:
    """Yield batches row group by row group, because row groups requested together are fetched together."""
    for group in range(parquet.num_row_groups):
        batches = parquet.iter_batches(256, row_groups=[group], columns=columns)
        while batch := _next(batches, file):
            yield batch


def _next(batches: Iterator[pa.RecordBatch], file: UPath) -> pa.RecordBatch | None:
    with limit_memory(file):
        return next(batches, None)


def _image(value: Any, label: int, fallback: str) -> LabelledImage:
    in_struct = isinstance(value, pa.StructScalar)
    content = _plain(value["bytes"] if in_struct else value)
    path = _plain(value["path"]) if in_struct and "path" in value else None
    if isinstance(path, bytes):
        path = path.decode(errors="backslashreplace")

    def read() -> bytes:
        if content is None:
            raise ValueError("the row holds no image bytes")
        return bytes(content)

    return LabelledImage(path or fallback, label, read)


def _plain(value: Any) -> Any:
    """Convert a value from Arrow to Python; text that is not UTF-8 becomes bytes."""
    try:
        return value.as_py()
    except UnicodeDecodeError:
        return value.as_buffer().to_pybytes()
