"""Images without labels, wherever they lie: files, folders, globs, tar archives, Parquet, at local paths or URIs.

Nothing is read before it is asked for, so any number of images costs constant memory (a folder, its list of names).
"""

from collections.abc import Iterable, Iterator
from functools import partial

from upath import UPath

from mofe import storage
from mofe.data.archives import ARCHIVES
from mofe.data.sources import SUFFIXES, LabelledImage, at, open_source
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
        try:
            if "*" not in place:
                yield from _images_at(path)
                continue
            names = sorted(path.fs.glob(path.path))
            if not names:
                raise MofeError(f"nothing matches {place}")
            for name in names:
                yield from _images_at(at(path, name))
        except OSError as error:
            raise MofeError(f"cannot read {place}: {error}") from error


def _images_at(path: UPath) -> Iterator[LabelledImage]:
    if path.name.endswith((*ARCHIVES, ".parquet")):
        yield from open_source(str(path)).images()
    elif path.is_dir():
        names = sorted(name for name in path.fs.find(path.path) if name.lower().endswith(SUFFIXES))
        if not names:
            raise MofeError(f"there are no images under {path} (looked for {' '.join(SUFFIXES)})")
        for name in names:
            yield LabelledImage(str(at(path, name)), -1, partial(path.fs.cat_file, name))
    elif path.exists():
        yield LabelledImage(str(path), -1, path.read_bytes)
    else:
        raise MofeError(f"there is nothing at {path}")
