"""Tar archives, read in one pass from front to back, so that an archive in an object store is streamed.

Nothing is extracted to disk, and one file is held at a time.
"""

import bz2
import gzip
import lzma
import tarfile
import zlib
from collections.abc import Iterator
from typing import IO, Any, NamedTuple, Self, cast

from upath import UPath

from mofe.data.formats import HEAD
from mofe.data.reading import LARGEST
from mofe.errors import MofeError, in_one_line
from mofe.storage import locations

ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
_UNPACKED: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZ": bz2.open, b"\xfd7": lzma.open}
"""Whose checksums tarfile does not verify, by their first bytes."""
_DAMAGE = (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError)


class Member(NamedTuple):
    """An entry of an archive."""

    name: str
    head: bytes
    """The first :data:`mofe.data.formats.HEAD` bytes of a file."""
    rest: bytes | None
    """The bytes after :attr:`head`; None if they were not wanted, or the file is larger than :data:`LARGEST`."""
    link: str = ""
    """Target of a link."""
    hard: bool = False
    """Whether the link is a hard one, to an earlier file of the archive."""
    special: bool = False
    """Whether the entry is a device or a pipe."""
    folder: bool = False


def members(archive: UPath, whole: bool) -> Iterator[Member]:
    """Yield every entry of an archive, in its order.

    Args:
        archive: path or URI of the archive.
        whole: whether the whole content of files is wanted, or only their beginning.

    Raises:
        MofeError: the file is not a tar archive, or ends too early.
    """
    with locations.reading(archive, "archive") as stream:
        begun = _Begun(stream.read(2), stream)
        try:
            if unpacked := _UNPACKED.get(begun.head):
                with unpacked(cast(IO[bytes], begun)) as inside:
                    yield from _entries(inside, whole)
                    while inside.read(1 << 20):
                        pass
            else:
                yield from _entries(begun, whole)
        except _DAMAGE as error:
            raise MofeError(f"{archive} is not a whole tar archive: {in_one_line(error)}") from error


class _Begun:
    """A stream whose first bytes were read already."""

    def __init__(self, head: bytes, rest: IO[bytes]):
        self.head = self.left = head
        self.rest = rest

    def read(self, size: int) -> bytes:
        content, self.left = self.left[:size], self.left[size:]
        return content + self.rest.read(size - len(content))


def _entries(stream: Any, whole: bool) -> Iterator[Member]:
    with tarfile.open(fileobj=stream, mode="r|*", tarinfo=_Entry) as tar:
        while entry := tar.next():
            tar.members.clear()  # type: ignore[attr-defined]  # tarfile keeps every header
            if entry.isdir():
                yield Member(entry.name, b"", None, folder=True)
            elif not entry.isfile():
                linked = entry.linkname if entry.issym() or entry.islnk() else ""
                yield Member(entry.name, b"", None, linked, entry.islnk(), special=not linked)
            else:
                file = cast(IO[bytes], tar.extractfile(entry))
                head = file.read(HEAD)
                yield Member(entry.name, head, file.read() if whole and entry.size <= LARGEST else None)


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
