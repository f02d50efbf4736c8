"""Reading the bytes of an entry, and deciding by them what it is."""

import stat
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from threading import Lock

from fsspec.spec import AbstractFileSystem
from upath import UPath

from mofe.data.entries import EMPTY, TEXT, NotAnImageError
from mofe.data.formats import HEAD, format_of, is_named_as_image, is_text
from mofe.storage import locations

LARGEST = 1 << 28
"""Largest image file in bytes; a larger one is not read into memory."""
AT_ONCE = 1 << 20
"""Files of a store up to this size are read in one request, before it is known what they are."""
SAFE = {"file", "local", "memory", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "hf", "http", "https"}
"""File systems of which several threads may read at once; others, such as ``tar``, share one position in one file."""

_one_reader = Lock()


def check_kind(name: str, head: bytes) -> None:
    """Accept an entry that is an image by its first bytes or by its name.

    Raises:
        NotAnImageError: it is a file of text, or empty.
        ValueError: it is neither image nor text.
    """
    if is_named_as_image(name) or format_of(head):
        return
    if not head:
        raise NotAnImageError(EMPTY)
    if is_text(head):
        raise NotAnImageError(TEXT)
    raise ValueError("it is not an image that can be read")


def check_size(size: int | None) -> None:
    """Refuse to read a file that is too large.

    Raises:
        ValueError: it is.
    """
    if size is not None and size > LARGEST:
        raise ValueError(f"it is larger than {LARGEST >> 20} MB")


def read_image(path: UPath) -> bytes:
    """Read the bytes of a file that somebody named as an image.

    Raises:
        OSError, ValueError: there is no such file, or it cannot be read whole (a pipe, a device, too large).
        MofeError: the object store does not answer, which is not the image's fault and ends the stage.
    """
    if locations.is_local(path):
        _check_local(Path(path.path), None)
        return Path(path.path).read_bytes()
    return _fetch(locations.file_system(path), path.path, str(path))


def read_entry(folder: UPath, entry: locations.Entry, root: Path | None = None) -> bytes:
    """Read the bytes of an entry of a folder, of which only a few are read if it is not an image.

    Args:
        folder: path or URI of the folder.
        entry: one of its entries.
        root: on this machine, the folder that links must not lead out of; None allows any target.

    Raises:
        NotAnImageError: the entry is a file of text, or empty.
        OSError, ValueError: it is not an image, or cannot be read whole; links that lead out of the folder cannot.
        MofeError: as for :func:`read_image`.
    """
    if locations.is_local(folder):
        file = Path(folder.path) / entry.name
        _check_local(file, root)
        with file.open("rb") as stream:
            head = stream.read(HEAD)
            check_kind(entry.name, head)
            return head + stream.read()
    fs, name, uri = locations.file_system(folder), f"{folder.path.rstrip('/')}/{entry.name}", f"{folder}/{entry.name}"
    size = entry.size if entry.size is not None or is_named_as_image(entry.name) else _size(fs, name, uri)
    if size and size > AT_ONCE and not is_named_as_image(entry.name):
        check_kind(entry.name, _fetch(fs, name, uri, HEAD))
    check_size(size)
    content = _fetch(fs, name, uri)
    check_kind(entry.name, content[:HEAD])
    return content


def _size(fs: AbstractFileSystem, name: str, uri: str) -> int | None:
    with locations.access(uri, "image"), _turn(fs):
        return fs.info(name).get("size")


def _fetch(fs: AbstractFileSystem, name: str, uri: str, end: int | None = None) -> bytes:
    with locations.access(uri, "image"), _turn(fs):
        try:
            return bytes(fs.cat_file(name, end=end))
        except FileNotFoundError as error:
            raise ValueError("it does not exist") from error


def _turn(fs: AbstractFileSystem) -> AbstractContextManager[object]:
    protocols = {fs.protocol} if isinstance(fs.protocol, str) else {*fs.protocol}
    return nullcontext() if protocols & SAFE else _one_reader


def _check_local(file: Path, root: Path | None) -> None:
    """Refuse what may not be read, or may never end.

    Args:
        file: the file.
        root: folder that links must not lead out of; None allows any target.
    """
    if root and not file.resolve().is_relative_to(root):
        raise ValueError("it is a link that leads out of the folder; a CSV manifest can name files anywhere")
    found = file.stat()
    if stat.S_ISDIR(found.st_mode):
        raise ValueError("it is a link to a folder, and such links are not followed")
    if not stat.S_ISREG(found.st_mode):
        raise ValueError("it is not a regular file")
    check_size(found.st_size)
