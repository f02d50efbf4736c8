"""Images without labels at local paths or URIs: files, folders, globs, tar archives and Parquet files.

Images are read on demand, so any number of them takes constant memory (a folder takes that of its list of names).
"""

from collections.abc import Iterable, Iterator
from functools import partial

from upath import UPath

from mofe.data.archives import archived_images
from mofe.data.entries import LabelledImage, Tally, as_text
from mofe.data.folders import candidates
from mofe.data.parquet import open_parquet_files
from mofe.data.places import has_wildcard, holds_many
from mofe.data.reading import read_entry, read_image
from mofe.data.tar import ARCHIVES
from mofe.errors import MofeError
from mofe.storage import locations
from mofe.storage.locations import Entry


def list_images(places: Iterable[locations.Location]) -> Iterator[LabelledImage]:
    """Yield every image of every place, in the order given; within a folder or glob, by name.

    Args:
        places: local paths or URIs, as for :func:`find_files`.

    Raises:
        MofeError: there is nothing at a place, or a folder or archive holds no image.
    """
    for place in places:
        named = None if isinstance(place, UPath) else locations.resolve(place)
        for file in find_files([place]):
            if holds_many(file.name):
                yield from _inside(file)
            else:
                read = partial(read_image if file == named else _read_listed, file)
                yield LabelledImage(as_text(str(file)), -1, read)


def _inside(file: UPath) -> Iterator[LabelledImage]:
    """Yield the images in an archive or a Parquet file."""
    if not file.name.lower().endswith(ARCHIVES):
        yield from open_parquet_files([file], str(file), labelled=False).images()
        return
    empty = True
    for image in archived_images(file):
        empty = False
        yield image
    if empty:
        raise MofeError(f"there are no images in {file}")


def _read_listed(file: UPath) -> bytes:
    """Read a file that a folder or a glob brought along, so that it may be of another kind."""
    return read_entry(file.parent, Entry(file.name, "file", None))


def find_files(places: Iterable[locations.Location]) -> Iterator[UPath]:
    """Yield every file that :func:`list_images` would read: images, archives, Parquet files.

    A link to a folder is not followed. It is listed as an image; reading it fails and gives the reason.

    Args:
        places: local paths or fsspec URIs, each of a file, a folder (searched to any depth), a glob, a tar archive, or
            a Parquet file with a column ``image``. A UPath is a file that was listed before, and is yielded unchecked.

    Raises:
        MofeError: there is nothing at a place, or a folder holds no image.
    """
    for place in places:
        if isinstance(place, UPath):
            yield place
            continue
        path = locations.resolve(place)
        if kind := locations.kind(path):
            yield from _files_at(path, kind)
            continue
        found = locations.glob(path) if has_wildcard(str(place)) else []
        if not found:
            raise MofeError(f"nothing matches {place}" if has_wildcard(str(place)) else f"there is nothing at {path}")
        for one in found:
            yield from _files_at(one, locations.kind(one))


def _files_at(path: UPath, kind: str) -> Iterable[UPath]:
    if kind == "file":
        return [path]
    passed = Tally()
    found = candidates(path, passed)
    if not found:
        raise MofeError(f"there are no images under {path}{f': only {passed}' if passed.total else ''}")
    return (path / entry.name for entry in found)
