"""Finds the form of the data at a URI, and the files that belong to it.

A part of the data is chosen by a glob (``DIR/train-*.parquet``) or by the name of a split after ``#`` (``DIR#train``).
A file or folder whose name holds such characters is found first.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from upath import UPath

from mofe.data.entries import BESIDE, HIDDEN, SYNSETS_FILE, Tally, as_text, is_hidden
from mofe.data.folders import SYNSETS
from mofe.data.formats import is_named_as_image, kind_of
from mofe.data.manifest import MANIFESTS
from mofe.data.splits import examples, is_split, split_of, splits_of
from mofe.data.tar import ARCHIVES
from mofe.errors import MofeError
from mofe.storage import locations

Form = Literal["archives", "tables", "manifest", "folders", "images"]
"""Form of a source; ``images`` are files that a glob names."""
TABLE = ".parquet"
EXPECTED = "expected a folder, a glob, a tar archive, a Parquet file, or a CSV manifest"


@dataclass(frozen=True)
class Place:
    """The form of the data at a URI, and the files, or the one folder, that hold it."""

    form: Form
    files: list[UPath]
    chosen: bool = False
    """Whether a glob or a split chose the files, so that others lie beside them."""
    passed: Tally = field(default_factory=Tally)
    """Files beside archives or Parquet files in a folder."""


def find_place(uri: str) -> Place:
    """Find the form of the data at ``uri``.

    Raises:
        MofeError: there is nothing at ``uri``, or what is there can be read in two ways; the message names both.
    """
    whole, kind, split = _located(uri)
    if kind == "file" and split:
        raise MofeError(f"{whole} is one file, of which #{split} chooses nothing: leave it out")
    if kind == "file":
        return Place(form_of_file(whole), [whole])
    if kind == "directory":
        return _in_folder(whole, uri, split)
    if not has_wildcard(uri):
        raise MofeError(f"there is nothing at {uri}: {EXPECTED}")
    found = locations.glob(whole)
    if not found:
        raise MofeError(f"nothing matches {uri}: {EXPECTED}")
    place = _of_files(found, uri, split)
    if place:
        return Place(*place, chosen=True)
    files = [file for file in found if locations.kind(file) == "file" and not is_hidden(file.name)]
    return Place("images", files, chosen=True)


def has_wildcard(uri: str) -> bool:
    """Whether a path that does not exist may be a glob; in a web address ``?`` begins a query."""
    return "*" in uri or (any(sign in uri for sign in "?[") and not uri.startswith(("http://", "https://")))


def _located(uri: str) -> tuple[UPath, str, str]:
    """Path, kind (see :func:`mofe.storage.locations.kind`) and split of a URI."""
    whole = locations.resolve(uri)
    kind = locations.kind(whole)
    before, sign, split = uri.rpartition("#")
    if kind or not sign or not before or not split or "/" in split:
        return whole, kind, ""
    whole = locations.resolve(before)
    return whole, locations.kind(whole), split


def form_of_file(file: UPath) -> Form:
    """The form of the data in one file, by its suffix, else by its first bytes.

    Raises:
        MofeError: it is none; the message says what the file is, and what to do.
    """
    name = file.name.lower()
    if name.endswith(ARCHIVES):
        return "archives"
    if name.endswith(TABLE):
        return "tables"
    if name.endswith(MANIFESTS):
        return "manifest"
    with locations.reading(file, "data") as stream:
        kind = kind_of(stream.read(512))
    if kind == "a Parquet file":
        return "tables"
    if kind == "a tar archive":
        return "archives"
    remedy = EXPECTED
    if kind == "a zip archive":
        remedy = f"give it as zip://::{file.as_uri() if locations.is_local(file) else file}"
    elif kind == "a web page":
        remedy = "a web server has no folders to list: give the URI of an archive or of a CSV manifest"
    raise MofeError(f"{file} is {kind}: {remedy}")


def holds_many(name: str) -> bool:
    """Whether a file of this name holds many images."""
    return name.lower().endswith((*ARCHIVES, TABLE))


def _in_folder(folder: UPath, uri: str, split: str) -> Place:
    contents = locations.contents(folder)
    visible = {name: kind for name, kind in contents.items() if not is_hidden(name)}
    folders = [name for name, kind in visible.items() if kind == "directory"]
    files = [name for name in visible if name not in folders]
    place = _of_files([folder / name for name in files], uri, split)
    if not place:
        return Place("folders", [folder]) if not split else _chosen_folder(folder, folders, split)
    form, chosen = place
    others = folders + [name for name in files if is_named_as_image(name)]
    if split:  # what else is there was not chosen
        others = [name for name in others if split_of(name) == (split_of(split) or split)]
    if others:
        what = "the folder" if others[0] in folders else "the image"
        raise MofeError(
            f"{folder} holds {as_text(chosen[0].name)} and {what} {as_text(others[0])}: move one of them elsewhere, or "
            f"name what to read, as in {chosen[0]}"
        )
    passed = Tally()
    names = {file.name for file in chosen}
    for name in contents:
        if name not in names:
            reason = HIDDEN if is_hidden(name) else SYNSETS_FILE if name == SYNSETS else BESIDE
            passed.add(as_text(name), reason)
    return Place(form, chosen, bool(split), passed)


def _of_files(files: Sequence[UPath], uri: str, split: str) -> tuple[Form, list[UPath]] | None:
    """The archives or Parquet files among the files, of one split; None if there are none.

    Raises:
        MofeError: there are both, or files of several splits of which none was chosen.
    """
    archives = [file for file in files if file.name.lower().endswith(ARCHIVES)]
    tables = [file for file in files if file.name.lower().endswith(TABLE)]
    if archives and tables:
        raise MofeError(
            f"{uri} holds tar archives ({archives[0].name}) and Parquet files ({tables[0].name}): name one kind, as in "
            f"*{TABLE}"
        )
    if not (found := archives or tables):
        return None
    splits = splits_of(file.name for file in found)
    if split:
        wanted = split_of(split) or split
        if wanted not in splits:
            raise MofeError(f"{uri}: there is no split {split}; there are {examples(splits)}")
        found = [file for file in found if split_of(file.name) == wanted]
    elif len(splits) > 1:
        raise MofeError(
            f"{uri} holds several splits: {examples(splits)}; choose one, as in {uri}#{one_of(splits)}, or give a "
            "glob of its files"
        )
    return ("archives" if archives else "tables"), found


def one_of(splits: Iterable[str]) -> str:
    return "train" if "train" in splits else sorted(filter(None, splits))[0]


def _chosen_folder(folder: UPath, folders: list[str], split: str) -> Place:
    wanted = split_of(split) or split
    for name in folders:
        if name == split or (is_split(name) and split_of(name) == wanted):
            inner = _in_folder(folder / name, str(folder / name), "")
            return Place(inner.form, inner.files, True, inner.passed)
    have = ", ".join(map(as_text, folders[:5])) or "no folders"
    raise MofeError(f"{folder}: there is no split {split}; it holds {have}")


def splits_in(folder: UPath) -> list[str]:
    """The folders of splits, if a folder holds at least two and nothing but such folders.

    Sets of class folders are often kept so: ``data/train/CLASS``, ``data/val/CLASS``.
    """
    names = [name for name, kind in locations.contents(folder).items() if kind == "directory" and not is_hidden(name)]
    return names if len(names) > 1 and all(map(is_split, names)) else []
