"""Labelled images at any URI: class folders, tar archives, Hugging Face style Parquet, or a CSV manifest.

The content at the URI decides which of the four it is. Images are read on demand, so a source of any size takes
constant memory, except a list of names for a folder or manifest, and four bytes per image for archives.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

from upath import UPath

from mofe.data.archives import open_archives
from mofe.data.entries import LabelledImage, as_text
from mofe.data.folders import open_folder
from mofe.data.manifest import open_manifest
from mofe.data.parquet import open_parquet_files
from mofe.data.places import Place, find_place, one_of, splits_in
from mofe.data.reading import read_image
from mofe.data.source import Source, check_names, own_synsets
from mofe.data.synsets import read_synsets, synsets_beside
from mofe.errors import MofeError
from mofe.storage import locations


def open_source(uri: str, synsets: str = "", *, labelled: bool = True) -> Source:
    """Open the images at ``uri``.

    Args:
        uri: a folder of class folders (or of images, which then have no labels); a Parquet file or a tar archive
            (of class folders, or WebDataset's), a glob or a folder of such files; or a CSV file with columns ``path``
            and, for labelled images, ``label``. A split is chosen by its name after ``#``.
        synsets: a CSV file with columns ``class`` and ``synset``; if left out, ``synsets.csv`` beside the data, if any.
        labelled: whether the labels will be used, and must be right; otherwise nothing about them is an error.

    Raises:
        MofeError: there are no usable images; the message says what was found.
    """
    place = find_place(uri)
    source = _opened(place, uri, labelled)
    source = replace(source, passed=place.passed + source.passed, synsets=own_synsets(source.classes))
    if not labelled:
        return source
    check_names(source.classes, uri)
    given = locations.resolve(synsets) if synsets else synsets_beside(place.files[0])
    if synsets or locations.kind(given):
        return replace(source, synsets=read_synsets(given, source.classes))
    return source


def _opened(place: Place, uri: str, labelled: bool) -> Source:
    match place.form:
        case "archives":
            return open_archives(place.files, uri, labelled)
        case "tables":
            return open_parquet_files(place.files, uri, labelled)
        case "manifest":
            return open_manifest(place.files[0], labelled)
        case "images":
            return _open_images(place.files, uri, labelled)
        case "folders":
            notes = _about_splits(place.files[0], labelled)
            source = open_folder(place.files[0], labelled)
            return replace(source, notes=(*source.notes, *notes))


def _about_splits(folder: UPath, labelled: bool) -> tuple[str, ...]:
    if not (splits := splits_in(folder)):
        return ()
    found = f"{folder} holds the splits {', '.join(splits)}"
    if labelled:
        raise MofeError(f"{found}: choose one, as in {folder}#{one_of(splits)}")
    return (f"{found}, and all are taken; choose one as in {folder}#{one_of(splits)}",)


def _open_images(files: Sequence[UPath], uri: str, labelled: bool) -> Source:
    """Open the files that a glob names, which have no labels."""
    if not files or labelled:
        what = f"{len(files)} files, such as {as_text(files[0].name)}" if files else "folders only"
        raise MofeError(
            f"{uri} matches {what}: a glob names tar archives or Parquet files here; for images give the folder of the "
            "class folders, or a CSV manifest"
        )

    def images() -> Iterator[LabelledImage]:
        for file in files:
            yield LabelledImage(as_text(str(file)), -1, partial(read_image, file))

    return Source((), len(files), images)
