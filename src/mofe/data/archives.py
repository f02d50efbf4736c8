"""Images in tar archives, in one pass from front to back, so that an archive in an object store is streamed.

An image's class is the folder that it lies in (``tabby/12.jpg``) or, as WebDataset has it, what the neighbour of the
same name with suffix ``.cls`` says (``000123.jpg``, ``000123.cls``). Nothing is ever extracted to disk.
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
    """An image file of an archive."""

    name: str
    class_name: str
    """ "" without one."""
    content: bytes | None
    """None where it was not asked for, or where the file is larger than :data:`LARGEST`."""


def members(archive: UPath, suffixes: tuple[str, ...], with_content: bool = True) -> Iterator[Member]:
    """The images of an archive, in its order.

    Args:
        archive: its place.
        suffixes: of image files, in lower case.
        with_content: False skips over the content.

    Raises:
        MofeError: it is no tar archive, or it ends too early.
    """

    def read(entry: tarfile.TarInfo) -> bytes | None:
        file = tar.extractfile(entry) if entry.size <= LARGEST else None
        return file.read() if file else None

    try:
        with storage.reading(archive, "archive") as stream, tarfile.open(fileobj=stream, mode="r|*") as tar:
            files = (entry for entry in tar if entry.isfile())  # links and devices lead out of the archive
            for _, sample in groupby(files, key=lambda entry: _stem(entry.name)):
                images, class_name = [], ""
                for entry in sample:
                    if entry.name.endswith(".cls"):
                        class_name = (read(entry) or b"").decode(errors="replace").strip()
                    elif entry.name.lower().endswith(suffixes):
                        folder = entry.name.removeprefix("./").rpartition("/")[0].split("/")[0]
                        images.append(Member(entry.name, folder, read(entry) if with_content else None))
                yield from (image._replace(class_name=class_name or image.class_name) for image in images)
    except (tarfile.TarError, EOFError) as error:
        raise MofeError(f"{archive} is not a whole tar archive: {error}") from error


def _stem(name: str) -> str:
    """What the files of a WebDataset sample have in common: everything before the first dot of the base name."""
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.split(".")[0]
