"""The findings of ``mofe data check`` as lines of text."""

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from mofe.data.places import find_place
from mofe.data.survey import Image, Survey
from mofe.detection.neighbourhood import Suspect
from mofe.errors import MofeError
from mofe.partitioning.wordnet import resolve_synsets, synset

FORMS = {
    "archives": "tar archives",
    "tables": "Parquet files",
    "manifest": "a CSV manifest",
    "folders": "a folder",
    "images": "image files",
}
SHOWN = 5
"""Number of examples of a finding."""


def about_source(found: Survey) -> Iterator[str]:
    """The lines about one source."""
    account, source = found.account, found.account.source
    yield f"\n{found.uri}: {FORMS[find_place(found.uri).form]}"
    yield f"  {account}"
    yield from (f"  {note}" for note in source.notes)
    if found.unlabelled_because:
        yield f"  usable as an OOD set only, because its labels cannot be used: {found.unlabelled_because}"
    yield from _some(f"  rejected: {path}: {reason}" for path, reason in account.rejected)
    if found.looks:
        width_height = np.array([look.size for look in found.looks])
        small, middle, large = np.percentile(width_height.min(axis=1), [0, 50, 100]).astype(int)
        formats = ", ".join(
            f"{count} {name}" for name, count in Counter(look.format for look in found.looks).most_common()
        )
        yield f"  shorter side {small} to {large} pixels, median {middle}; {formats}"
    if source.classes:
        yield from _about_classes(found)


def _about_classes(found: Survey) -> Iterator[str]:
    """A table: each class, its number of images, its sense in WordNet."""
    source = found.account.source
    senses = [_sense(name, given) for name, given in zip(source.classes, source.synsets, strict=True)]
    width = max(len("class"), *map(len, source.classes))
    yield f"  {'class':<{width}}  images  sense in WordNet"
    for c, (name, sense) in enumerate(zip(source.classes, senses, strict=True)):
        yield f"  {name:<{width}}  {found.account.images[c]:>6}  {sense}"


def _sense(class_name: str, given: str | None) -> str:
    """The synset of a class and its definition, or why there is none."""
    try:
        (name,) = resolve_synsets([class_name], [given])
    except MofeError as error:
        return f"none: {error}"
    return f"{name}: {synset(name).definition()}"


def about_copies(surveys: Sequence[Survey], groups: Sequence[Sequence[Image]], what: str) -> Iterator[str]:
    """The lines about images that are there more than once.

    Args:
        surveys: the sources, the training images first.
        groups: groups of copies.
        what: what to call them.
    """
    yield f"\n{what}:"
    for number, found in enumerate(surveys):
        for earlier in range(number + 1):
            pairs = list(_pairs(groups, earlier, number))
            if not pairs:
                continue
            where = "others in it" if earlier == number else f"images of {surveys[earlier].uri}"
            advice = "" if earlier == number else "; remove them" if earlier == 0 else "; is that intended?"
            yield f"  in {found.uri}, copies of {where}: {len(pairs)} of {len(found.paths)} images{advice}"
            yield from _some(f"    {_pair(surveys, *pair)}" for pair in pairs)
    if not groups:
        yield f"  none among {sum(len(found.paths) for found in surveys)} images"


def _pairs(groups: Sequence[Sequence[Image]], earlier: int, number: int) -> Iterator[tuple[Image, Image]]:
    """Each image of a source that is in an earlier source too, or earlier in the same, and that copy first."""
    for group in groups:
        copies = [image for image in group if image[0] == earlier]
        for image in group:
            if image[0] == number and copies and image != copies[0]:
                yield copies[0], image


def _pair(surveys: Sequence[Survey], one: Image, other: Image) -> str:
    """Two copies, and whether their labels differ."""
    (first, a), (second, b) = one, other
    same = "the same file as" if surveys[first].looks[a].digest == surveys[second].looks[b].digest else "looks like"
    names = [surveys[number].class_of(place) for number, place in (one, other)]
    differ = f", but is {names[1]}, not {names[0]}" if all(names) and names[0] != names[1] else ""
    return f"{surveys[second].paths[b]} is {same} {surveys[first].paths[a]}{differ}".replace("is looks", "looks")


def _some(lines: Iterator[str]) -> Iterator[str]:
    """The first lines, and how many there are besides."""
    every = list(lines)
    yield from every[:SHOWN]
    if len(every) > SHOWN:
        indent = every[0][: len(every[0]) - len(every[0].lstrip())]
        yield f"{indent}… and {len(every) - SHOWN} more"


def about_labels(found: Survey, doubtful: Sequence[Suspect]) -> Iterator[str]:
    """The lines about images of one source that look mislabelled, class by class."""
    classes, total = found.account.source.classes, Counter(found.labels)
    by_class: dict[int, list[Suspect]] = {}
    for suspect in doubtful:
        by_class.setdefault(found.labels[suspect.image], []).append(suspect)
    for label, some in sorted(by_class.items(), key=lambda item: -len(item[1])):
        yield f"  {len(some)} of {total[label]} images of {classes[label]!r} in {found.uri}"
        yield from _some(f"    {found.paths[s.image]} looks like {classes[s.likelier]!r}" for s in some)
