"""Class folders, or one folder of images without labels."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from upath import UPath

from mofe.data.entries import EMPTY, HIDDEN, MARKER, SYNSETS_FILE, LabelledImage, Tally, as_text, is_hidden, mixing_key
from mofe.data.formats import is_named_as_image
from mofe.data.reading import read_entry
from mofe.data.source import Source, check_text, class_name, merged_forms
from mofe.errors import MofeError
from mofe.storage import locations
from mofe.storage.locations import Entry

SYNSETS = "synsets.csv"
NAMED = 5
"""Classes that a message names."""


def candidates(folder: UPath, passed: Tally) -> list[Entry]:
    """The entries of a folder at any depth that may be images, by name, and links to folders.

    Args:
        folder: path or URI of the folder.
        passed: tally that the other entries are added to.
    """
    found = []
    for entry in locations.entries(folder):
        if entry.kind == "marker":
            passed.add(as_text(entry.name), MARKER)
        elif is_hidden(entry.name):
            passed.add(as_text(entry.name), HIDDEN)
        elif entry.name == SYNSETS:
            passed.add(entry.name, SYNSETS_FILE)
        elif entry.size == 0 and not is_named_as_image(entry.name):
            passed.add(as_text(entry.name), EMPTY)
        else:
            found.append(entry)
    return found


def open_folder(root: UPath, labelled: bool) -> Source:
    """Open a folder of class folders, or of images that lie flat.

    Args:
        root: the folder.
        labelled: whether labels are needed; without need, images may lie at any depth.

    Raises:
        MofeError: there are no files; or labels are needed, and a class is empty or images lie beside the classes.
    """
    passed = Tally()
    # a batch is drawn from a few row groups, so shards must be mixed
    found = sorted(candidates(root, passed), key=lambda entry: mixing_key(entry.name))
    if not found:
        raise MofeError(f"there are no images under {root}{f': only {passed}' if passed.total else ''}")
    folders = {entry.name.split("/", 1)[0] for entry in found if "/" in entry.name}
    if labelled and folders:
        folders |= {name for name in locations.folders(root) if not is_hidden(name)}
        _check_classes(root, folders, found)
    classes = tuple(sorted({class_name(name) for name in folders}))
    index = {name: c for c, name in enumerate(classes)}
    mixed = labelled and bool(folders)
    inside = Path(root.path).resolve() if locations.is_local(root) else None

    def images() -> Iterator[LabelledImage]:
        for entry in sorted(found, key=lambda entry: "/" in entry.name) if mixed else found:
            top, slash, _ = entry.name.partition("/")
            label = index[class_name(top)] if slash else -1
            read = partial(read_entry, root, entry, inside)
            yield LabelledImage(
                as_text(entry.name),
                label,
                partial(_refuse_image, read, root, entry.name) if mixed and not slash else read,
            )

    notes = merged_forms(folders, str(root))
    flat = "" if folders else f"its images lie flat ({as_text(found[0].name)})"
    return Source(classes, len(found), images, passed, notes=notes, in_place_of_labels=flat)


def _check_classes(root: UPath, folders: set[str], found: list[Entry]) -> None:
    check_text(sorted(folders), str(root))
    flat = [entry for entry in found if "/" not in entry.name]
    for entry in sorted(flat):
        if entry.kind == "link":
            raise MofeError(
                f"{root / entry.name} is a link to a folder, and such links are not followed: put the folder of the "
                "class itself there, or name its images in a CSV manifest"
            )
        if is_named_as_image(entry.name):
            raise _mixed(root, entry.name)
    filled = {entry.name.split("/", 1)[0] for entry in found}
    if empty := sorted(folders - filled):
        more = f" and {len(empty) - NAMED} more" if len(empty) > NAMED else ""
        raise MofeError(
            f"{root} has class folders without any image: {', '.join(empty[:NAMED])}{more}; put images into them, or "
            "remove them"
        )


def _refuse_image(read: Callable[[], bytes], root: UPath, name: str) -> bytes:
    """Read a file that lies beside class folders: text is passed over, an image has no class."""
    read()
    raise _mixed(root, name)


def _mixed(root: UPath, name: str) -> MofeError:
    return MofeError(
        f"{root} holds both images ({as_text(name)}) and folders of images: put every image into the folder of its "
        "class, or all of them flat for a set without labels"
    )
