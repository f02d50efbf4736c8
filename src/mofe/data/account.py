"""The account of a source's entries: each ends as an image, as rejected, or as passed over, and no entry is lost."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from mofe.data.entries import LISTED, OVER_LIMIT, LabelledImage
from mofe.data.read_ahead import Read
from mofe.data.source import Source
from mofe.errors import MofeError


@dataclass
class Account:
    """Counts the entries of a source while they are read.

    Args:
        source: the source.
        images_per_class: number of images that are taken of each class (of a set without labels, in all); 0 takes all.
    """

    source: Source
    images_per_class: int = 0
    images: Counter[int] = field(default_factory=Counter)
    """Number of images of each class; of those without label at -1."""
    num_rejected: int = 0
    rejected: list[tuple[str, str]] = field(default_factory=list)
    """Path and reason of the first :data:`LISTED` entries that claim to be images and are none that can be used."""
    met: set[int] = field(default_factory=set)
    """Classes of which there was any entry."""

    def __post_init__(self) -> None:
        """Begin with what the listing of the source passed over."""
        self.passed = self.source.passed + type(self.source.passed)()

    @property
    def num_images(self) -> int:
        """Number of images so far."""
        return self.images.total()

    def _is_full(self, label: int) -> bool:
        return 0 < self.images_per_class <= self.images[label]

    def wanted(self) -> Iterator[LabelledImage]:
        """Yield the entries to read; those of a class that has enough images are passed over."""
        for image in self.source.images():
            if self._is_full(image.label):
                self.passed.add(image.path, OVER_LIMIT)
            else:
                yield image

    def settle(self, read: Iterable[Read[Any]]) -> Iterator[tuple[LabelledImage, Any]]:
        """Yield the images to take, each with its content; the other entries are counted."""
        for image, content, reason, passed_over in read:
            self.met.add(image.label)
            if passed_over:
                self.passed.add(image.path, reason)
            elif content is not None and self._is_full(image.label):  # it was read before the last one was taken
                self.passed.add(image.path, OVER_LIMIT)
            elif content is not None:
                self.images[image.label] += 1
                yield image, content
            else:
                self.num_rejected += 1
                if len(self.rejected) < LISTED:
                    self.rejected.append((image.path, reason))

    def check(self, uri: str) -> None:
        """Refuse a source whose entries are not all accounted for: it changed while it was read.

        Raises:
            MofeError: says how many were listed, and how many were met.
        """
        met = self.num_images + self.num_rejected + self.passed.total
        if met != self.source.listed:
            raise MofeError(f"{uri} changed while it was read: {self.source.listed} entries were listed, {met} found")

    def __str__(self) -> str:
        """The three counts in words, with what was passed over."""
        passed = f" ({self.passed})" if self.passed.total else ""
        return (
            f"{self.source.listed} entries: {self.num_images} images of {len(self.source.classes)} classes, "
            f"{self.num_rejected} rejected, {self.passed.total} passed over{passed}"
        )
