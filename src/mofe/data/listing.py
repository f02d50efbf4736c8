"""Images without labels, wherever they lie: files, folders, globs, tar archives, Parquet, at local paths or URIs.

Nothing is read before it is asked for, so any number of images costs constant memory (a folder, its list of names).
"""

from collections.abc import Iterable, Iterator
from functools import partial

from upath import UPath

from mofe import storage
from mofe.data.archives import ARCHIVES
from mofe.data.sources import SUFFIXES, LabelledImage, open_source, read_image
from mofe.errors import MofeError


def list_images(places: Iterable[str]) -> Iterator[LabelledImage]:
    """Every image of every place, in the order given; within a folder or glob, by name.

    Args:
        places: each a file, a folder (searched to any depth), a glob, a tar archive, or a Parquet file with a column
            ``image``; a local path or fsspec URI.

    Raises:
        MofeError: there is nothing at a place, or a folder or archive holds no image.
    """
    for place in places:
        path = storage.resolve(place)
        found = storage.glob(path) if "*" in place else [path]
        if not found:
            raise MofeError(f"nothing matches {place}")
        for one in found:
            yield from _images_at(one)


def _images_at(path: UPath) -> Iterator[LabelledImage]:
    kind = storage.kind(path)
    if not kind:
        raise MofeError(f"there is nothing at {path}")
    if path.name.endswith((*ARCHIVES, ".parquet")):
        yield from open_source(str(path)).images()
    elif kind == "file":
        yield LabelledImage(str(path), -1, partial(read_image, path))
    else:
        names = [name for name in storage.names(path) if name.lower().endswith(SUFFIXES)]
        if not names:
            raise MofeError(f"there are no images under {path} (looked for {' '.join(SUFFIXES)})")
        for file in map(path.joinpath, names):
            yield LabelledImage(str(file), -1, partial(read_image, file))
