"""Images in tar archives, read in one pass from front to back, so that an archive in an object store is streamed.

The class of an image is its folder (``tabby/12.jpg``) or, as in WebDataset, the content of the file of the same name
with suffix ``.cls`` (``000123.jpg``, ``000123.cls``). Nothing is extracted to disk.

A ``.cls`` may come after its image, and any number of images may share one. Therefore the pass that finds classes reads
no image, and the pass that reads images holds one at a time.
"""

import gzip
import tarfile
import zlib
from collections.abc import Iterator
from itertools import groupby
from typing import IO, Any, NamedTuple, Self, cast

from upath import UPath

from mofe.errors import MofeError
from mofe.storage import locations

ARCHIVES = (".tar", ".tar.gz", ".tgz")
LARGEST = 1 << 28
"""Largest image file in bytes; a larger one is not read into memory."""


class Member(NamedTuple):
    """A file in an archive."""

    name: str
    content: bytes | None
    """None if the content was not requested, or the file is larger than :data:`LARGEST`."""


def images_in(archive: UPath, suffixes: tuple[str, ...]) -> Iterator[Member]:
    """Yield the images of an archive, in its order.

    Args:
        archive: path or URI of the archive.
        suffixes: suffixes of image files, in lower case.

    Raises:
        MofeError: the file is not a tar archive, or ends too early.
    """
    return (member for member in _files(archive, suffixes) if member.name.lower().endswith(suffixes))


def classes_in(archive: UPath, suffixes: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Yield the name and the class of the images that :func:`images_in` yields, in its order; "" for no class."""
    for _, sample in groupby(_files(archive, (".cls",)), key=lambda member: _stem(member.name)):
        images, class_name = [], ""
        for name, content in sample:
            if name.endswith(".cls"):
                class_name = (content or b"").decode(errors="replace").strip()
            elif name.lower().endswith(suffixes):
                images.append(name)
        for name in images:
            yield name, class_name or name.removeprefix("./").rpartition("/")[0].split("/")[0]


def _files(archive: UPath, read: tuple[str, ...]) -> Iterator[Member]:
    """Yield all files that are not hidden, with the content of those whose name ends in one of ``read``."""
    with locations.reading(archive, "archive") as stream:
        begun = _Begun(stream.read(2), stream)
        try:
            if begun.head == b"\x1f\x8b":  # gzip, whose checksum tarfile does not verify
                with gzip.open(cast(IO[bytes], begun)) as unpacked:
                    yield from _entries(unpacked, read)
                    while unpacked.read(1 << 20):
                        pass
            else:
                yield from _entries(begun, read)
        except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise MofeError(f"{archive} is not a whole tar archive: {error}") from error


class _Begun:
    """A stream whose first bytes were read already."""

    def __init__(self, head: bytes, rest: IO[bytes]):
        self.head = self.left = head
        self.rest = rest

    def read(self, size: int) -> bytes:
        content, self.left = self.left[:size], self.left[size:]
        return content + self.rest.read(size - len(content))


def _entries(stream: Any, read: tuple[str, ...]) -> Iterator[Member]:
    with tarfile.open(fileobj=stream, mode="r|*", tarinfo=_Entry) as tar:
        while entry := tar.next():
            tar.members.clear()  # type: ignore[attr-defined]  # tarfile keeps every header
            if entry.isfile() and not is_hidden(entry.name):  # links and devices lead out of the archive
                wanted = entry.name.lower().endswith(read) and entry.size <= LARGEST
                file = tar.extractfile(entry) if wanted else None
                yield Member(entry.name, file.read() if file else None)


class _Entry(tarfile.TarInfo):
    """A header that must be valid up to the archive's end, two blocks of zeros.

    By itself tarfile takes a damaged or missing header for the end.
    """

    @classmethod
    def fromtarfile(cls, tar: Any) -> Self:
        try:
            return super().fromtarfile(tar)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"it is damaged or cut off at byte {tar.offset:,}: {error}") from error


def is_hidden(name: str) -> bool:
    """Whether systems or editors made the file: a part of its path begins with a dot, or is ``__MACOSX``."""
    return any((part.startswith(".") and part.strip(".")) or part == "__MACOSX" for part in name.split("/"))


def _stem(name: str) -> str:
    """The key of a WebDataset sample: the path up to the first dot of the base name."""
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.split(".")[0]
