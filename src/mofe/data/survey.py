"""A survey of a source of images without a run: reads every image once and keeps none."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from mofe.data.account import Account
from mofe.data.duplicates import Looks, looks_of, same_pictures
from mofe.data.read_ahead import read_ahead
from mofe.data.sources import open_source
from mofe.errors import MofeError
from mofe.progress import progress

AHEAD = 64
"""Images read ahead, which bound the memory."""


@dataclass
class Survey:
    """The images of one source; memory: about 600 bytes an image."""

    uri: str
    account: Account
    unlabelled_because: str = ""
    """Why the labels cannot be used, if the source was read without them."""
    paths: list[str] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    looks: list[Looks] = field(default_factory=list)

    def class_of(self, place: int) -> str:
        """Class of an image; "" if it has none."""
        classes, label = self.account.source.classes, self.labels[place]
        return classes[label] if 0 <= label < len(classes) else ""


def survey(uri: str, synsets: str = "") -> Survey:
    """Read all images of a source, with their labels if these can be used.

    Args:
        uri: as for :func:`mofe.data.sources.open_source`.
        synsets: as for :func:`mofe.data.sources.open_source`.

    Raises:
        MofeError: there are no images at ``uri``, whether with labels or without.
    """
    because = ""
    try:
        source = open_source(uri, synsets)
    except MofeError as error:
        because = str(error)
        try:
            source = open_source(uri, labelled=False)
        except MofeError:
            raise error from None
    found = Survey(uri, Account(source), because)
    read = read_ahead(found.account.wanted(), looks_of, ahead=AHEAD)
    for image, looks in found.account.settle(progress(read, label=uri, total=source.total)):
        found.paths.append(image.path)
        found.labels.append(image.label)
        found.looks.append(looks)
    found.account.check(uri)
    return found


Image = tuple[int, int]
"""An image of several surveys: the survey's number, and the image's place in it."""


def copies_in(surveys: Sequence[Survey], picture_N: np.ndarray | None = None) -> list[list[Image]]:
    """Groups of two or more images that show one picture, within a survey or in several.

    Args:
        surveys: the surveys, of N images in all.
        picture_N: equal numbers for images of one picture; None compares the pictures themselves.
    """
    images = [(number, place) for number, found in enumerate(surveys) for place in range(len(found.paths))]
    if picture_N is None:
        picture_N = same_pictures([look for found in surveys for look in found.looks])
    groups: dict[int, list[Image]] = {}
    for picture, image in zip(picture_N.tolist(), images, strict=True):
        groups.setdefault(picture, []).append(image)
    return [group for group in groups.values() if len(group) > 1]
