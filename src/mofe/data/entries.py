"""Entries of a source: images to be read, and files that are passed over for a stated reason."""

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

HIDDEN = "hidden"
MARKER = "stands for a folder"
TEXT = "a text file"
EMPTY = "an empty file"
BESIDE = "beside the data"
LABEL = "a label"
SYNSETS_FILE = "a list of synsets"
OVER_LIMIT = "over images_per_class"

LISTED = 1000
"""Entries of a kind that are listed by name; all are counted."""
SHOWN = 3
"""Names that a line for people gives for each reason."""

_SYSTEM_FILES = {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "@eadir"}


class NotAnImageError(ValueError):
    """The entry is not an image, and its name does not claim that it is; the message is one of the reasons above."""


@dataclass(frozen=True)
class LabelledImage:
    """One image of a source, not yet read."""

    path: str
    """Path as text that tables can hold: see :func:`as_text`."""
    label: int
    """Index into the source's classes; -1 without a label."""
    read: Callable[[], bytes]
    """Reads the content; raises OSError or ValueError if that fails, :class:`NotAnImageError` for other files."""


@dataclass
class Tally:
    """Entries by reason: how many, and the first of them."""

    counts: Counter[str] = field(default_factory=Counter)
    first: list[tuple[str, str]] = field(default_factory=list)
    """Path and reason of the first :data:`LISTED` entries."""

    def add(self, path: str, reason: str) -> None:
        """Count one entry."""
        self.counts[reason] += 1
        if len(self.first) < LISTED:
            self.first.append((path, reason))

    @property
    def total(self) -> int:
        """How many there are."""
        return self.counts.total()

    def __add__(self, other: "Tally") -> "Tally":
        """A new tally of both."""
        return Tally(self.counts + other.counts, (self.first + other.first)[:LISTED])

    def __str__(self) -> str:
        """``3 × hidden (.net/0.png, .net/1.png, …), 1 × a text file (notes.txt)``; "" if there are none."""
        return ", ".join(f"{count} × {reason} ({self._names(reason, count)})" for reason, count in self.counts.items())

    def _names(self, reason: str, count: int) -> str:
        names = [path for path, why in self.first if why == reason][:SHOWN]
        return ", ".join([*names, "…"] if count > len(names) else names)


def is_hidden(name: str) -> bool:
    """Whether systems or editors made the file: a part of its path begins with a dot, or is ``__MACOSX``, ``@eaDir``.

    ``Thumbs.db`` and ``desktop.ini`` count as well.
    """
    return any((part.startswith(".") and part.strip(".")) or part.lower() in _SYSTEM_FILES for part in name.split("/"))


def as_text(name: str) -> str:
    """Escape the bytes of a name or message that are not UTF-8, which a file's name may contain."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")


def mixing_key(name: str) -> bytes:
    """Sort key that mixes names, always in the same way: a batch is drawn from a few row groups of a shard."""
    return hashlib.md5(name.encode(errors="surrogateescape"), usedforsecurity=False).digest()
