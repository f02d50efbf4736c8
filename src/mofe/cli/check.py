"""``mofe data check``: what images would become, before any run."""

import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from mofe.errors import MofeError

if TYPE_CHECKING:
    import numpy as np

    from mofe.data.survey import Image, Survey

SHOWN = 5
"""Number of examples of a finding."""


def check(
    uris: tyro.conf.Positional[tuple[str, ...]] = (),
    params: Annotated[Path | None, tyro.conf.arg(aliases=["-f"])] = None,
    synsets: str = "",
    features: bool = False,
) -> None:
    """Show what images would become in a run, without a run.

    For each source: its form, the number of images of each class and the WordNet sense of the class, sizes and formats,
    and every entry that is not an image, with the reason. Then the copies: images that are there twice, also saved or
    scaled in another way, and images of the first source that are in others too. With --features also: images whose
    neighbours are of another class, and copies that only the backbone sees.

    Example: mofe data check photos/train photos/test photos/unknown

    Example: mofe data check -f params.yaml --features

    Args:
        uris: the training images first, then test images and OOD sets, as 'mofe run' takes them.
        params: a file of parameters instead, whose train_data, test_data and ood_data are checked.
        synsets: CSV with columns class,synset for the first source; "" looks for synsets.csv beside the data.
        features: look at the images through the backbone of the file of parameters; its weights may be downloaded.
    """
    from mofe.data.survey import copies_in, survey

    given = _parameters(params)
    if bool(uris) == bool(given):
        raise MofeError("name folders, archives or other sources of images, or a file of parameters: -f params.yaml")
    if features and not given:
        raise MofeError("--features needs the backbone that a file of parameters names: -f params.yaml")
    sources = [*uris] or [given["train_data"], given["test_data"], *(item["uri"] for item in given["ood_data"])]
    surveys = []
    for number, uri in enumerate(sources):
        surveys.append(survey(uri, (synsets or given.get("synsets", "")) if number == 0 else ""))
        print("\n".join(_about(surveys[-1])), flush=True)
    print("\n".join(_about_copies(surveys, copies_in(surveys), "copies")))
    if features:
        print("\n".join(_about_features(surveys, given)))


def _parameters(params: Path | None) -> Mapping[str, Any]:
    from mofe.parameters.file import check_parameters, pipeline_parameters, read_parameters
    from mofe.runners.digests import compiled_pipeline

    if params is None:
        return {}
    known = pipeline_parameters(compiled_pipeline("mofe.yaml"))
    given = check_parameters(read_parameters(params, ()), known, str(params))
    return {name: given.get(name, known[name].get("defaultValue")) for name in known}


def _about(found: "Survey") -> Iterator[str]:
    """The lines about one source."""
    import numpy as np

    account, source = found.account, found.account.source
    yield f"\n{found.uri}: {source.form}"
    yield f"  {account}"
    yield from (f"  {note}" for note in source.notes)
    if found.unlabelled_because:
        yield f"  usable as an OOD set only, because its labels cannot be used: {found.unlabelled_because}"
    yield from _some(f"  rejected: {path}: {reason}" for path, reason in account.rejected)
    if found.looks:
        width_height = np.array([look.size for look in found.looks])
        small, middle, large = np.percentile(width_height.min(axis=1), [0, 50, 100]).astype(int)
        formats = ", ".join(f"{count} {name}" for name, count in Counter(look.format for look in found.looks).most_common())
        yield f"  shorter side {small} to {large} pixels, median {middle}; {formats}"
    if source.classes:
        yield from _about_classes(found)


def _about_classes(found: "Survey") -> Iterator[str]:
    """A table: each class, its number of images, its sense in WordNet."""
    from mofe.partitioning.wordnet import describe_senses

    source = found.account.source
    senses = describe_senses(source.classes, source.synsets)
    width = max(len("class"), *map(len, source.classes))
    yield f"  {'class':<{width}}  images  sense in WordNet"
    for c, (name, sense) in enumerate(zip(source.classes, senses, strict=True)):
        yield f"  {name:<{width}}  {found.account.images[c]:>6}  {sense}"


def _about_copies(surveys: Sequence["Survey"], groups: Sequence[Sequence["Image"]], what: str) -> Iterator[str]:
    """The lines about images that are there more than once.

    Args:
        surveys: the sources, the training images first.
        groups: groups of copies.
        what: what to call them.
    """
    yield f"\n{what}:"
    before = len(surveys)
    for number, found in enumerate(surveys):
        inside = [[image for image in group if image[0] == number] for group in groups]
        twice = [group for group in inside if len(group) > 1]
        if twice:
            extra = sum(len(group) - 1 for group in twice)
            yield f"  {extra} of {len(found.paths)} images of {found.uri} are copies of others in it"
            yield from _some(f"    {_pair(surveys, *group[:2])}" for group in twice)
        of_train = [(group[0], image) for group in groups for image in group if number > 0 == group[0][0] < image[0] == number]
        if of_train:
            yield (
                f"  {len(of_train)} of {len(found.paths)} images of {found.uri} are copies of images of "
                f"{surveys[0].uri}: remove them, because results on them mean nothing"
            )
            yield from _some(f"    {_pair(surveys, *pair)}" for pair in of_train)
    if not groups:
        yield f"  none among {sum(len(found.paths) for found in surveys)} images"


def _pair(surveys: Sequence["Survey"], one: "Image", other: "Image") -> str:
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
