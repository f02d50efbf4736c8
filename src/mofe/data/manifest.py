"""CSV manifests: a table of paths and labels, which may name files anywhere."""

import csv
import io
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

from upath import UPath

from mofe.data.entries import LabelledImage, mixing_key
from mofe.data.reading import read_image
from mofe.data.source import Source, class_name, merged_forms
from mofe.errors import MofeError
from mofe.storage import locations

MANIFESTS = (".csv", ".tsv")
"""Suffixes of manifests; columns of the second are separated by tabs."""


class Table(NamedTuple):
    """A CSV file with a header."""

    columns: tuple[str, ...]
    rows: list[dict[str, str]]


def read_table(path: UPath, what: str, *columns: str) -> Table:
    """Read a CSV file that must have these columns, the first of them filled in every row.

    Raises:
        MofeError: the file is missing or is not such a table; the message says which columns it has.
    """
    content = locations.read_bytes(path, what)
    separator = "\t" if path.suffix.lower() == ".tsv" else ","
    try:
        text = io.StringIO(content.decode("utf-8-sig"), newline="")
        reader = csv.DictReader(text, restval="", delimiter=separator)
        found = tuple(reader.fieldnames or ())
        if not set(columns) <= set(found):
            raise MofeError(f"{path}: expected the columns {separator.join(columns)} in a {what}, found {named(found)}")
        rows = list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise MofeError(f"{path} is not a CSV file in UTF-8: {error}") from error
    for number, row in enumerate(rows, start=2):
        if not row[columns[0]].strip():
            raise MofeError(f"{path}, line {number} has no {columns[0]}: fill it in")
    return Table(found, rows)


def named(columns: tuple[str, ...]) -> str:
    """Names of columns for a message; in quotes where a blank would go unseen."""
    return ",".join(repr(name) if name != name.strip() or not name else name for name in columns)


def manifest_rows(path: UPath) -> list[dict[str, str]]:
    """Read the rows of a CSV manifest (``path`` and optionally ``label``)."""
    return read_table(path, "CSV manifest", "path").rows


def manifest_file(manifest: UPath, name: str) -> UPath:
    """The file of an image in a manifest: an absolute path or URI unchanged, else relative to the manifest's folder."""
    whole = "://" in name or "::" in name or name.startswith(("/", "~/"))
    return locations.resolve(name) if whole else manifest.parent / name


def open_manifest(path: UPath, labelled: bool) -> Source:
    """Open the images that a CSV file with the columns ``path`` and ``label`` names.

    Args:
        path: path or URI of the CSV file.
        labelled: whether labels are needed; without need, some lines may lack one.

    Raises:
        MofeError: the file lists no images, or labels are needed and a line has none.
    """
    columns, rows = read_table(path, "CSV manifest", "path")
    if not rows:
        raise MofeError(f"{path} lists no images")
    unlabelled = [number for number, row in enumerate(rows, start=2) if not (row.get("label") or "").strip()]
    if labelled and 0 < len(unlabelled) < len(rows):
        raise MofeError(
            f"{path}, line {unlabelled[0]} has no label, but other lines have one: label every image or none"
        )
    texts = {row["label"] for row in rows if (row.get("label") or "").strip()}
    classes = tuple(sorted({class_name(text) for text in texts}))
    index = {name: c for c, name in enumerate(classes)}
    order = sorted(rows, key=lambda row: mixing_key(row["path"]))

    def images() -> Iterator[LabelledImage]:
        for row in order:
            label = index.get(class_name(row.get("label") or ""), -1)
            yield LabelledImage(row["path"], label, partial(_read, path, row["path"]))

    return Source(
        classes,
        len(rows),
        images,
        notes=merged_forms(texts, str(path)),
        in_place_of_labels="" if classes else f"its columns are {named(columns)}, expected path,label",
    )


def _read(manifest: UPath, name: str) -> bytes:
    return read_image(manifest_file(manifest, name))
