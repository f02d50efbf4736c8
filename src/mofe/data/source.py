"""A source of images as all forms of data become one, and the rules for the names of its classes."""

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from mofe.data.entries import LabelledImage, Tally, as_text
from mofe.errors import MofeError

_WNID = re.compile(r"n\d{8}")


@dataclass(frozen=True)
class Source:
    """The entries at a URI that may be images, and the names of their classes."""

    classes: tuple[str, ...]
    total: int
    """Number of entries that :attr:`images` yields."""
    images: Callable[[], Iterator[LabelledImage]]
    passed: Tally = field(default_factory=Tally)
    """Entries that are not images according to the listing."""
    synsets: tuple[str | None, ...] = ()
    """WordNet synset of each class that the data gives one for, else None."""
    notes: tuple[str, ...] = ()
    """Decisions of rules where the data could be read in two ways, one line each."""
    in_place_of_labels: str = ""
    """Description of what was found in the place of labels, for a source without labels."""

    @property
    def listed(self) -> int:
        """Number of all entries."""
        return self.total + self.passed.total


def class_name(text: str) -> str:
    """The name of a class in Unicode's composed form (NFC); a Mac's file system writes the other form."""
    return unicodedata.normalize("NFC", as_text(text))


def merged_forms(texts: Iterable[str], uri: str) -> tuple[str, ...]:
    """A note for each class whose name occurs in two Unicode forms, which are taken for one class."""
    forms: dict[str, set[str]] = {}
    for text in texts:
        forms.setdefault(class_name(text), set()).add(text)
    return tuple(
        f"{uri} writes the class {name!r} in {len(found)} Unicode forms, which are taken for one class"
        for name, found in sorted(forms.items())
        if len(found) > 1
    )


def own_synsets(classes: Sequence[str]) -> tuple[str | None, ...]:
    """The classes whose names are wnids of WordNet; None for others."""
    return tuple(name if _WNID.fullmatch(name) else None for name in classes)


def check_names(classes: Sequence[str], uri: str) -> None:
    """Refuse class names that cannot be told apart, or that tables cannot hold.

    Raises:
        MofeError: names both.
    """
    seen: dict[str, str] = {}
    for name in classes:
        key = class_name(name).strip().casefold()
        if not key:
            raise MofeError(f"{uri} has a class without a name: name it")
        if key in seen:
            raise MofeError(
                f"{uri} has the class {ascii_if_alike(name, seen[key])} twice "
                f"(as {ascii_if_alike(seen[key], name)}): rename or merge one of them"
            )
        seen[key] = name


def ascii_if_alike(name: str, other: str) -> str:
    """The name in quotes; with escapes if it looks like the other one but differs in Unicode form."""
    return ascii(name) if name != other and class_name(name) == class_name(other) else repr(name)


def check_text(folders: Iterable[str], uri: str) -> None:
    """Refuse names of class folders that are not UTF-8.

    Raises:
        MofeError: names the first.
    """
    for name in folders:
        if as_text(name) != name:
            raise MofeError(f"{uri} has a class whose name is not UTF-8, {as_text(name)}: rename its folder")
