"""Images without labels at local paths or URIs: files, folders, globs, tar archives and Parquet files.

Images are read on demand, so any number of them takes constant memory (a folder takes that of its list of names).
"""

from collections.abc import Iterable, Iterator
from functools import partial

from upath import UPath

from mofe.data.archives import ARCHIVES
from mofe.data.sources import SUFFIXES, LabelledImage, archived_images, as_text, image_names, open_source, read_image
from mofe.errors import MofeError
from mofe.storage import locations

TABLES = (*ARCHIVES, ".parquet")
"""Suffixes of files that hold many images."""


def list_images(places: Iterable[locations.Location]) -> Iterator[LabelledImage]:
    """Yield every image of every place, in the order given; within a folder or glob, by name.

    Args:
        places: local paths or URIs, as for :func:`find_files`.

    Raises:
        MofeError: there is nothing at a place, or a folder or archive holds no image.
    """
    for file in find_files(places):
        if file.name.endswith(ARCHIVES):
            empty = True
            for image in archived_images(file):
                empty = False
                yield image
            if empty:
                raise MofeError(f"there are no images in {file} (looked for {' '.join(SUFFIXES)})")
        elif file.name.endswith(TABLES):
            yield from open_source(str(file)).images()
        else:
            yield LabelledImage(as_text(str(file)), -1, partial(read_image, file))


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
        found = locations.glob(path) if "*" in str(place) else [path]
        if not found:
            raise MofeError(f"nothing matches {place}")
        for one in found:
            yield from _files_at(one)


def _files_at(path: UPath) -> Iterable[UPath]:
    kind = locations.kind(path)
    if not kind:
        raise MofeError(f"there is nothing at {path}")
    if kind == "file" or path.name.endswith(TABLES):
        return [path]
    names = image_names(path)
    if not names:
        raise MofeError(f"there are no images under {path} (looked for {' '.join(SUFFIXES)})")
    return map(path.joinpath, names)
