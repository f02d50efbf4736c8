"""Images in tar archives, in one pass from front to back, so that an archive in an object store is streamed.

An image's class is the folder that it lies in (``tabby/12.jpg``) or, as WebDataset has it, what the neighbour of the
same name with suffix ``.cls`` says (``000123.jpg``, ``000123.cls``). Nothing is ever extracted to disk.

The ``.cls`` may come after its image, and any number of images may share one. So a pass that asks for classes reads no
image, and one that asks for images holds one at a time.
"""

import tarfile
from collections.abc import Iterator
from itertools import groupby
from typing import NamedTuple

from upath import UPath

from mofe import storage
from mofe.errors import MofeError

ARCHIVES = (".tar", ".tar.gz", ".tgz")
LARGEST = 1 << 28
"""Bytes of an image file; a larger one is not read into memory."""


class Member(NamedTuple):
    """A file of an archive."""

    name: str
    content: bytes | None
    """None where it was not asked for, or where the file is larger than :data:`LARGEST`."""


def images_in(archive: UPath, suffixes: tuple[str, ...]) -> Iterator[Member]:
    """The images of an archive, in its order.

    Args:
        archive: its place.
        suffixes: of image files, in lower case.

    Raises:
        MofeError: it is no tar archive, or it ends too early.
    """
    return (member for member in _files(archive, suffixes) if member.name.lower().endswith(suffixes))


def classes_in(archive: UPath, suffixes: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """The names of the same images, in the same order, each with that of its class, "" without one."""
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
    """All files of an archive; the content of those whose names end in ``read``."""
    try:
        with storage.reading(archive, "archive") as stream, tarfile.open(fileobj=stream, mode="r|*") as tar:
            while entry := tar.next():
                tar.members.clear()  # type: ignore[attr-defined]  # it would keep every header
                if entry.isfile():  # links and devices lead out of the archive
                    wanted = entry.name.lower().endswith(read) and entry.size <= LARGEST
                    file = tar.extractfile(entry) if wanted else None
                    yield Member(entry.name, file.read() if file else None)
    except (tarfile.TarError, EOFError) as error:
        raise MofeError(f"{archive} is not a whole tar archive: {error}") from error


def _stem(name: str) -> str:
    """What the files of a WebDataset sample have in common: everything before the first dot of the base name."""
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.split(".")[0]
