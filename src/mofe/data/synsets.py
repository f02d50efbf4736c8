"""The list of synsets: a CSV file that says which WordNet synset a class is."""

from collections.abc import Sequence

from upath import UPath

from mofe.data.entries import is_hidden
from mofe.data.folders import NAMED, SYNSETS
from mofe.data.manifest import read_table
from mofe.data.source import class_name, own_synsets
from mofe.errors import MofeError
from mofe.storage import locations


def synsets_beside(data: UPath) -> UPath:
    """Default place of the synsets: ``synsets.csv`` in the folder of the data."""
    return (data if locations.kind(data) == "directory" else data.parent) / SYNSETS


def read_synsets(path: UPath, classes: Sequence[str]) -> tuple[str | None, ...]:
    """Read the synset of each class; None for a class that neither the file nor its own name gives one.

    Raises:
        MofeError: the file names a class twice, or one that the data does not have.
    """
    given: dict[str, str] = {}
    for number, row in enumerate(read_table(path, "synset list", "class", "synset").rows, start=2):
        name, synset = class_name(row["class"]), (row["synset"] or "").strip()
        if name in given:
            said = f"as {given[name]!r} and as {synset!r}" if given[name] != synset else f"both times as {synset!r}"
            raise MofeError(f"{path}, line {number} names the class {name!r} twice, {said}: keep one line")
        given[name] = synset
    if unknown := sorted(set(given) - set(classes)):
        hidden = ", because its folder is hidden: rename it without the dot" if is_hidden(unknown[0]) else ""
        have = ", ".join(classes[:NAMED]) + (", …" if len(classes) > NAMED else "")
        raise MofeError(f"{path} names the class {unknown[0]!r}, which the data does not have{hidden}; it has {have}")
    return tuple(given.get(name) or own for name, own in zip(classes, own_synsets(classes), strict=True))
