"""Images in tar archives.

The class of an image is its folder (``tabby/12.jpg``) or, as in WebDataset, the content of the ``.cls`` file that lies
next to it (``000123.jpg``, ``000123.cls``). Of several ``.cls`` files, the one whose name is the longest beginning of
the image's name counts, cut at dots: ``cam.1.png`` takes ``cam.1.cls`` before ``cam.cls``.

A ``.cls`` may come after its image, and any number of images may share one. Therefore the pass that finds classes reads
the beginnings of files only, and the pass that reads images holds one at a time.
"""

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from typing import NamedTuple

from upath import UPath

from mofe.data.entries import HIDDEN, LABEL, LabelledImage, NotAnImageError, Tally, as_text, is_hidden
from mofe.data.formats import format_of, is_named_as_image
from mofe.data.reading import LARGEST, check_kind
from mofe.data.source import Source, class_name, merged_forms
from mofe.data.tar import Member, members
from mofe.errors import MofeError

_CLS, _FOLDER = "a .cls file", "a folder"


class Labelled(NamedTuple):
    """A member that may be an image, and where its class comes from."""

    name: str
    is_image: bool
    """Whether the member is an image by its first bytes or its name."""
    folder: str
    """Name of its first folder; "" if it lies in none."""
    label: str | None
    """Content of its ``.cls`` file; None without one."""


def archived_images(archive: UPath) -> Iterator[LabelledImage]:
    """Yield the members of a tar archive that may be images, in its order, without labels.

    Raises:
        MofeError: the file is not a tar archive, or ends too early.
    """
    for member in members(archive, whole=True):
        if not member.folder and not _reason_to_pass(member):
            yield LabelledImage(as_text(member.name), -1, partial(_content, member))


@dataclass
class _Found:
    """Result of a pass over archives that does not read whole images."""

    uri: str
    passed: Tally = field(default_factory=Tally)
    others: Tally = field(default_factory=Tally)
    """Members that are not images, and whose content must be read to know it."""
    index: dict[str, int] = field(default_factory=dict)
    class_N: "array[int]" = field(default_factory=lambda: array("i"))
    """Number in :attr:`index` of the class of each member that is yielded later."""
    spellings: set[str] = field(default_factory=set)
    ways: dict[str, str] = field(default_factory=dict)
    """Where classes come from, each with the first image."""
    folders: set[str] = field(default_factory=set)
    """Folders at the top, hidden ones left out."""

    def add(self, found: Labelled) -> None:
        text = ""
        if found.is_image:
            text = found.folder if found.label is None else found.label
            self.spellings.add(text)
            self.ways.setdefault(_CLS if found.label is not None else _FOLDER if found.folder else "", found.name)
        else:
            self.others.add(as_text(found.name), "not an image")
        self.class_N.append(self.index.setdefault(class_name(text), len(self.index)))

    def check(self) -> None:
        """Refuse classes that are given in two ways, or not for all images, or that have no image.

        Raises:
            MofeError: names an example of each.
        """
        _check_ways(self.ways, self.uri)
        empty = (
            sorted({class_name(name) for name in self.folders} - self.index.keys() - {"", "."})
            if _FOLDER in self.ways
            else []
        )
        if empty:
            raise MofeError(f"{self.uri} has class folders without any image: {', '.join(empty[:5])}; remove them")


def open_archives(files: Sequence[UPath], uri: str, labelled: bool) -> Source:
    """Open tar archives as one source.

    Args:
        files: the archives.
        uri: what to call them in messages.
        labelled: whether labels are needed; without need, images may lack one.

    Raises:
        MofeError: there are no images, or they are labelled in two ways, or some are not.
    """
    found = _Found(uri)
    for file in files:
        for member in _labelled(file, found):
            found.add(member)
    if not found.ways:
        what = ", ".join(str(tally) for tally in (found.passed, found.others) if tally.total)
        raise MofeError(f"there are no images in {uri}{f': only {what}' if what else ''}")
    if labelled:
        found.check()
    names = found.index.keys() - {""}
    classes = tuple(sorted(names, key=int) if all(name.isdecimal() for name in names) else sorted(names))
    rank = {name: c for c, name in enumerate(classes)}
    label_C = [rank.get(name, -1) for name in found.index]

    def images() -> Iterator[LabelledImage]:
        read = (image for file in files for image in archived_images(file))
        for image, c in zip(read, found.class_N, strict=True):
            yield LabelledImage(image.path, label_C[c], image.read)

    beside = f" and {found.others}" if found.others.total else ""
    return Source(
        classes,
        len(found.class_N),
        images,
        found.passed,
        notes=merged_forms(found.spellings, uri),
        in_place_of_labels="" if classes else f"it holds {found.ways['']}{beside}, without folders or .cls files",
    )


def _check_ways(ways: dict[str, str], uri: str) -> None:
    if len(ways) == 1:
        return
    (way, name), (other, another) = list(ways.items())[:2]
    if "" in ways:
        bare, labelled = (name, another) if not way else (another, name)
        raise MofeError(
            f"{uri}: {bare} has no class, but other images have one ({labelled}): put it into the folder of its "
            "class, or a .cls file next to it"
        )
    raise MofeError(
        f"{uri}: {name} would take its class from {way}, {another} from {other}: label all images in one way (a .cls "
        "file must follow its image, or come just before it)"
    )


def _reason_to_pass(member: Member) -> str:
    if is_hidden(member.name):
        return HIDDEN
    if member.name.lower().endswith(".cls"):
        return LABEL
    try:
        if _is_file(member):
            check_kind(member.name, member.head)
    except NotAnImageError as reason:
        return str(reason)
    except ValueError:
        pass
    return ""


def _labelled(archive: UPath, found: _Found) -> Iterator[Labelled]:
    """Yield what :func:`archived_images` yields, in its order; other members are added to ``found``."""
    for key, sample in groupby(members(archive, whole=False), key=lambda member: _key(member.name)):
        images: list[tuple[str, bool]] = []
        labels: dict[str, str] = {}
        for member in sample:
            reason = "" if member.folder else _reason_to_pass(member)
            if not is_hidden(member.name):
                found.folders.add(_folder(f"{member.name}/" if member.folder else member.name))
            if member.folder:
                continue
            if not reason:
                images.append((member.name, _is_image(member)))
                continue
            found.passed.add(as_text(member.name), reason)
            if reason == LABEL:
                _add_label(labels, member, archive)
        for name, is_image in images:
            yield Labelled(name, is_image, _folder(name), _nearest(labels, name, key))


def _is_image(member: Member) -> bool:
    return _is_file(member) and bool(is_named_as_image(member.name) or format_of(member.head))


def _is_file(member: Member) -> bool:
    return not (member.folder or member.link or member.special)


def _folder(name: str) -> str:
    """The first folder of a path; "" if there is none."""
    return name.removeprefix("./").rpartition("/")[0].split("/")[0]


def _add_label(labels: dict[str, str], member: Member, archive: UPath) -> None:
    stem = member.name[: -len(".cls")]
    text = member.head.decode(errors="replace").strip()
    if not text:
        raise MofeError(f"{archive}: {as_text(member.name)} is empty: write the class of its image into it")
    if stem in labels:
        raise MofeError(f"{archive} holds {as_text(member.name)} twice: keep one of them")
    labels[stem] = text


def _nearest(labels: dict[str, str], name: str, key: str) -> str | None:
    """The label of the longest beginning of ``name``, cut at a dot, that has one."""
    while "." in name[len(key) :]:
        name = name.rpartition(".")[0]
        if name in labels:
            return labels[name]
    return None


def _key(name: str) -> str:
    """The key of a WebDataset sample: the path up to the first dot of the base name."""
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.split(".")[0]


def _content(member: Member) -> bytes:
    if member.hard:
        raise ValueError(
            f"it is a hard link to {as_text(member.link)}, which a stream cannot go back to: store it whole"
        )
    if member.link:
        raise ValueError(f"it is a link to {as_text(member.link)}, and links in archives are not followed")
    if member.special:
        raise ValueError("it is not a regular file")
    check_kind(member.name, member.head)
    if member.rest is None:
        raise ValueError(f"it is larger than {LARGEST >> 20} MB")
    return member.head + member.rest
