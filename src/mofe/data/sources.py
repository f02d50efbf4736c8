"""Labelled images at any URI: class folders, tar archives, Hugging Face style Parquet, or a CSV manifest.

The content at the URI decides which of the four it is. Images are read on demand, so a source of any size takes
constant memory, except a list of names for a folder or manifest, and four bytes per image for archives.
"""

import csv
import hashlib
import io
import json
import re
import stat
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from upath import UPath

from mofe.data.archives import ARCHIVES, LARGEST, Member, classes_in, images_in, is_hidden
from mofe.data.memory_limit import limit_memory
from mofe.errors import MofeError
from mofe.storage import locations

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
SYNSETS = "synsets.csv"
MAX_CLASSES = 1_000_000
"""Largest number of classes that have numbers for names."""
Form = Literal["archives", "tables", "manifest", "folders"]
"""Form of a source."""
_WNID = re.compile(r"n\d{8}")


@dataclass(frozen=True)
class LabelledImage:
    """One image of a source, not yet read."""

    path: str
    """Path as text that tables can hold: see :func:`as_text`."""
    label: int
    """Index into the source's classes; -1 without a label."""
    read: Callable[[], bytes]
    """Reads the file's content; raises OSError or ValueError if it cannot be read."""


@dataclass(frozen=True)
class Source:
    """The images at a URI and the names of their classes."""

    classes: tuple[str, ...]
    synsets: tuple[str | None, ...]
    total: int
    """Number of images, before any limit."""
    images: Callable[[], Iterator[LabelledImage]]

    def limited(self, images_per_class: int) -> "Source":
        """Keep the first n images of each class (of a set without labels, the first n); 0 keeps all."""
        if images_per_class == 0:
            return self

        def first() -> Iterator[LabelledImage]:
            taken: Counter[int] = Counter()
            for image in self.images():
                taken[image.label] += 1
                if taken[image.label] <= images_per_class:
                    yield image

        return replace(self, images=first, total=min(self.total, images_per_class * max(1, len(self.classes))))


def find_source(uri: str) -> tuple[Form, list[UPath]]:
    """Find the form of the images at ``uri``, and the files, or the one folder, that hold them.

    Raises:
        MofeError: there is nothing at ``uri``.
    """
    path = locations.resolve(uri)
    if "*" in uri:
        found = locations.glob(path)
        archives = [file for file in found if file.name.endswith(ARCHIVES)]
        return ("archives", archives) if archives else ("tables", [file for file in found if file.suffix == ".parquet"])
    if path.name.endswith(ARCHIVES):
        return "archives", [path] if locations.kind(path) == "file" else []
    if path.suffix == ".parquet":
        return "tables", [path] if locations.kind(path) == "file" else []
    if path.suffix == ".csv":
        return "manifest", [path]
    if locations.kind(path) == "directory":
        found = locations.children(path, "*")
        if tables := [file for file in found if file.name.endswith(".parquet")]:
            return "tables", tables
        archives = [file for file in found if file.name.endswith(ARCHIVES)]
        return ("archives", archives) if archives else ("folders", [path])
    raise MofeError(f"there is nothing at {uri}: expected a folder, a .tar or .parquet file, or a .csv manifest")


def open_source(uri: str, synsets: str = "") -> Source:
    """Open the images at ``uri``.

    Args:
        uri: a folder of class folders (or of images, which then have no labels); a Parquet file or a tar archive
            (of class folders, or WebDataset's), a glob or a folder of such files; or a CSV file with columns ``path``
            and, for labelled images, ``label``.
        synsets: a CSV file with columns ``class`` and ``synset``; if left out, ``synsets.csv`` beside the data, if any.

    Raises:
        MofeError: there are no usable images; the message says what was found.
    """
    form, files = find_source(uri)
    match form:
        case "archives":
            source = _archives(files, uri)
        case "tables":
            source = _parquet(files, uri)
        case "manifest":
            source = _manifest(files[0])
        case "folders":
            source = _folders(files[0])
    _check_names(source.classes, uri)
    given = locations.resolve(synsets) if synsets else synsets_beside(locations.resolve(uri))
    if synsets or locations.kind(given):
        return replace(source, synsets=_read_synsets(given, source))
    return source


def synsets_beside(data: UPath) -> UPath:
    """Default place of the synsets: ``synsets.csv`` in the folder of the data."""
    return (data if locations.kind(data) == "directory" else data.parent) / SYNSETS


def as_text(name: str) -> str:
    """Escape the bytes of a name or message that are not UTF-8, which a file's name may contain."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")


def read_image(path: UPath, root: Path | None = None) -> bytes:
    """Read the bytes of an image file.

    Args:
        path: the file.
        root: on this machine, the folder that links must not lead out of; None allows any target.

    Raises:
        OSError, ValueError: there is no such file, or it cannot be read whole (a pipe, a device, too large).
        MofeError: the object store does not answer, which is not the image's fault and ends the stage.
    """
    if locations.is_local(path):
        return _read_local(Path(path.path), root)
    with locations.access(path, "image"):
        try:
            return bytes(path.fs.cat_file(path.path))
        except FileNotFoundError as error:
            raise ValueError("it does not exist") from error


def _read_local(file: Path, root: Path | None) -> bytes:
    if root and not file.resolve().is_relative_to(root):
        raise ValueError("it is a link that leads out of the folder; a CSV manifest can name files anywhere")
    found = file.stat()
    if stat.S_ISDIR(found.st_mode):
        raise ValueError("it is a link to a folder, and such links are not followed")
    if not stat.S_ISREG(found.st_mode):  # a pipe may never end
        raise ValueError("it is not a regular file")
    if found.st_size > LARGEST:
        raise ValueError(f"it is larger than {LARGEST >> 20} MB")
    return file.read_bytes()


def _mixing_key(name: str) -> bytes:
    """Sort key that mixes names, always in the same way."""
    return hashlib.md5(name.encode(errors="surrogateescape"), usedforsecurity=False).digest()


def _own_synsets(classes: Sequence[str]) -> tuple[str | None, ...]:
    return tuple(name if _WNID.fullmatch(name) else None for name in classes)


def _check_names(classes: Sequence[str], uri: str) -> None:
    seen: dict[str, str] = {}
    for name in classes:
        key = name.strip().casefold()
        if not key:
            raise MofeError(f"{uri} has a class without a name: name it")
        if as_text(name) != name:
            raise MofeError(f"{uri} has a class whose name is not UTF-8, {as_text(name)}: rename its folder")
        if key in seen:
            raise MofeError(f"{uri} has the class {name!r} twice (as {seen[key]!r}): rename or merge one of them")
        seen[key] = name


def _read_synsets(path: UPath, source: Source) -> tuple[str | None, ...]:
    given = {row["class"]: row["synset"] for row in _rows_of(path, "synset list", "class", "synset")}
    if unknown := sorted(set(given) - set(source.classes)):
        raise MofeError(f"{path} names the class {unknown[0]!r}, which the data does not have")
    return tuple(given.get(name) or own for name, own in zip(source.classes, source.synsets, strict=True))


# --------------------------------------------------------------------------------------------------- class folders


def image_names(folder: UPath) -> list[str]:
    """The image files in ``folder`` at any depth, and the links to folders, without hidden ones.

    See :func:`mofe.storage.locations.names`.
    """
    return [name for name in locations.names(folder) if name.lower().endswith((*SUFFIXES, "/")) and not is_hidden(name)]


def _folders(root: UPath) -> Source:
    names = image_names(root)
    if not names:
        raise MofeError(f"there are no images under {root} (looked for {' '.join(SUFFIXES)}, not among hidden files)")
    flat = [name for name in names if "/" not in name]
    if flat and any("/" in name.rstrip("/") for name in names):
        raise MofeError(
            f"{root} holds both images ({flat[0]}) and folders of images: put every image into the folder of its "
            "class, or all of them flat for a set without labels"
        )
    links = [name for name in names if name.find("/") == len(name) - 1]
    if links and not flat:
        raise MofeError(
            f"{root / links[0]} is a link to a folder, and such links are not followed: put the folder of the class "
            "itself there, or name its images in a CSV manifest"
        )
    classes = () if flat else tuple(sorted({name.split("/", 1)[0] for name in names}))
    index = {name: c for c, name in enumerate(classes)}
    # shards must be mixed, because a batch is drawn from a few row groups
    order = sorted(names, key=_mixing_key)
    inside = Path(root.path).resolve() if locations.is_local(root) else None

    def images() -> Iterator[LabelledImage]:
        for name in order:
            label = index.get(name.split("/", 1)[0], -1)
            yield LabelledImage(as_text(name.rstrip("/")), label, partial(read_image, root / name, inside))

    return Source(classes, _own_synsets(classes), len(order), images)


# ------------------------------------------------------------------------------------------------------------- tar


def _archives(files: Sequence[UPath], uri: str) -> Source:
    index: dict[str, int] = {}
    class_N = array("i")
    bare = ""
    for file in files:
        for name, class_name in classes_in(file, SUFFIXES):
            class_N.append(index.setdefault(class_name, len(index)))
            bare = bare or ("" if class_name else name)
    if not class_N:
        raise MofeError(
            f"there are no images in {uri} (looked for {' '.join(SUFFIXES)} in tar archives, not among hidden files)"
        )
    names = index.keys() - {""}
    if bare and names:
        raise MofeError(
            f"{uri}: {bare} has no class, but other images have one: put it into the folder of its class, or a .cls "
            "file beside it"
        )
    classes = tuple(sorted(names, key=int) if all(name.isdecimal() for name in names) else sorted(names))
    rank = {name: c for c, name in enumerate(classes)}
    label_C = [rank.get(name, -1) for name in index]

    def images() -> Iterator[LabelledImage]:
        found = (image for file in files for image in archived_images(file))
        for image, c in zip(found, class_N, strict=True):
            yield replace(image, label=label_C[c])

    return Source(classes, _own_synsets(classes), len(class_N), images)


def archived_images(archive: UPath) -> Iterator[LabelledImage]:
    """Yield the images of a tar archive, in its order, without labels.

    Raises:
        MofeError: the file is not a tar archive, or ends too early.
    """
    for member in images_in(archive, SUFFIXES):
        yield LabelledImage(as_text(member.name), -1, partial(_content, member))


def _content(member: Member) -> bytes:
    if member.content is None:
        raise ValueError(f"it is larger than {LARGEST >> 20} MB")
    return member.content


# --------------------------------------------------------------------------------------------------------- Parquet


def _parquet(files: Sequence[UPath], uri: str) -> Source:
    if not files:
        raise MofeError(f"there is no Parquet file at {uri}")
    with locations.open_parquet(files[0]) as parquet:
        schema: pa.Schema = parquet.schema_arrow
    _check_schema(schema, files[0])
    labelled = "label" in schema.names
    classes = class_names(schema) if labelled else ()
    if labelled and classes is None:
        tops = [_highest_label(file) for file in files]
        highest = max((top for top in tops if top is not None), default=-1)
        if highest >= MAX_CLASSES:
            raise MofeError(
                f"{uri} has the label {highest}, and no names of classes: number the classes from 0, without gaps"
            )
        classes = tuple(str(c) for c in range(highest + 1))
    names = classes or ()
    total = sum(_rows(file) for file in files)
    if total == 0:
        raise MofeError(f"there are no images in {uri}")

    def images() -> Iterator[LabelledImage]:
        for file in files:
            row = 0
            with locations.open_parquet(file) as parquet:
                _check_schema(parquet.schema_arrow, file)
                for batch in _batches(parquet, ["image", *(["label"] if labelled else [])], file):
                    labels = batch["label"].to_pylist() if labelled else [-1] * len(batch)
                    for value, label in zip(batch["image"], labels, strict=True):
                        if labelled and (label is None or not 0 <= label < len(names)):
                            raise MofeError(f"{file}, row {row}: label {label} is not one of 0 to {len(names) - 1}")
                        yield _parquet_image(value, label, f"{file.name}#{row}")
                        row += 1

    return Source(names, _own_synsets(names), total, images)


def _rows(file: UPath) -> int:
    with locations.open_parquet(file) as parquet:
        return int(parquet.metadata.num_rows)


def _highest_label(file: UPath) -> int | None:
    """The highest label of a Parquet file; None if no row has a label."""
    with locations.open_parquet(file) as parquet, limit_memory(file):
        highest: int | None = pc.max(parquet.read(["label"])["label"]).as_py()
        return highest


def _batches(parquet: pq.ParquetFile, columns: list[str], file: UPath) -> Iterator[pa.RecordBatch]:
    """Yield batches row group by row group, because row groups requested together are fetched together."""
    for group in range(parquet.num_row_groups):
        batches = parquet.iter_batches(256, row_groups=[group], columns=columns)
        while batch := _next(batches, file):
            yield batch


def _next(batches: Iterator[pa.RecordBatch], file: UPath) -> pa.RecordBatch | None:
    with limit_memory(file):
        return next(batches, None)


def _check_schema(schema: pa.Schema, file: UPath) -> None:
    kind = schema.field("image").type if "image" in schema.names else None
    is_struct = kind is not None and pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0
    if kind is None or not (is_struct or pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        found = ", ".join(f"{f.name}: {f.type}" for f in schema)
        raise MofeError(
            f"{file}: expected a column image: struct<bytes, path> (or binary) and label: int64; found {found}"
        )
    if "label" in schema.names and not pa.types.is_integer(schema.field("label").type):
        raise MofeError(f"{file}: the column label must be an integer, found {schema.field('label').type}")


def class_names(schema: pa.Schema) -> tuple[str, ...] | None:
    """The names of Hugging Face's ClassLabel, if the schema has them."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return tuple(str(name) for name in features["label"]["names"])
    except (KeyError, TypeError, ValueError):
        return None


def _parquet_image(value: Any, label: int, fallback: str) -> LabelledImage:
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


# ---------------------------------------------------------------------------------------------------- CSV manifest


def manifest_rows(path: UPath) -> list[dict[str, str]]:
    """Read the rows of a CSV manifest (``path`` and optionally ``label``)."""
    return _rows_of(path, "CSV manifest", "path")


def _rows_of(path: UPath, what: str, *columns: str) -> list[dict[str, str]]:
    """Read the rows of a CSV file that must have these columns, the first of them filled in every row."""
    content = locations.read_bytes(path, what)
    try:
        reader = csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline=""), restval="")
        found = list(reader.fieldnames or ())
        if not set(columns) <= set(found):
            raise MofeError(f"{path}: expected the columns {','.join(columns)} in a {what}, found {','.join(found)}")
        rows = list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise MofeError(f"{path} is not a CSV file in UTF-8: {error}") from error
    for number, row in enumerate(rows, start=2):
        if not row[columns[0]].strip():
            raise MofeError(f"{path}, line {number} has no {columns[0]}: fill it in")
    return rows


def manifest_file(manifest: UPath, name: str) -> UPath:
    """The file of an image in a manifest: an absolute path or URI unchanged, else relative to the manifest's folder."""
    return locations.resolve(name) if "://" in name or name.startswith("/") else manifest.parent / name


def _manifest(path: UPath) -> Source:
    rows = manifest_rows(path)
    if not rows:
        raise MofeError(f"{path} lists no images")
    labelled = [number for number, row in enumerate(rows, start=2) if row.get("label")]
    if labelled and len(labelled) < len(rows):
        line = next(number for number, row in enumerate(rows, start=2) if not row.get("label"))
        raise MofeError(f"{path}, line {line} has no label, but other lines have one: label every image or none")
    classes = tuple(sorted({row["label"] for row in rows})) if labelled else ()
    index = {name: c for c, name in enumerate(classes)}
    order = sorted(rows, key=lambda row: _mixing_key(row["path"]))

    def images() -> Iterator[LabelledImage]:
        for row in order:
            file = manifest_file(path, row["path"])
            label = index[row["label"]] if classes else -1
            yield LabelledImage(row["path"], label, partial(read_image, file))

    return Source(classes, _own_synsets(classes), len(rows), images)
