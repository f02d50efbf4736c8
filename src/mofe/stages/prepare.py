"""Reads images from any source and writes them as shards in one format."""

from mofe.artifacts.image_set import Aside, ImageSet, Role, write_image_shards
from mofe.data.account import Account
from mofe.data.images import stored_form
from mofe.data.read_ahead import read_ahead
from mofe.data.sources import open_source
from mofe.errors import MofeError
from mofe.progress import progress
from mofe.storage import locations, writing
from mofe.tracking import journal

AHEAD = 64
"""Number of images read ahead of the writer. It limits the memory."""


def prepare(
    source: str,
    images: str,
    *,
    name: str,
    role: Role,
    digest: str = "",
    images_per_class: int = 0,
    max_rejected: float = 0.01,
    synsets: str = "",
) -> None:
    """Read images, check that each decodes, and write them as Parquet shards.

    Every entry of the source ends as an image, as rejected, or as passed over; dataset.json holds the three counts,
    and lists the rejected and passed-over entries with their reasons. RGB files in JPEG, PNG or WebP are kept byte for
    byte; others become lossless PNG.

    Args:
        source: folder of class folders, Hugging Face style Parquet or tar archives (file, glob or folder), or a CSV
            manifest with columns path,label; a local path or any fsspec URI.
        images: path or URI of the folder to write the image set to.
        name: name of the set in tables and plots.
        role: train, test (in-distribution, of the classes of train) or ood.
        digest: digest of the source's files, made by fingerprint. It is recorded, and Kubeflow's cache compares it.
        images_per_class: number of images to take of each class, the first ones; 0 takes all.
        max_rejected: largest share of unreadable files that is allowed, from 0 to 1.
        synsets: CSV with columns class,synset for class names that WordNet does not know; "" looks for synsets.csv
            beside the data.

    Raises:
        MofeError: the source is unusable for the role, or too many of its files are unreadable.
    """
    if role not in ("train", "test", "ood"):
        raise MofeError(f"role {role!r} is not one of train, test, ood")
    if images_per_class < 0:
        raise MofeError(f"images_per_class = {images_per_class} must not be negative")
    if not 0 <= max_rejected <= 1:
        raise MofeError(f"max_rejected = {max_rejected} must lie between 0 and 1")
    parameters = {"dataset": name, "images_per_class": images_per_class, "max_rejected": max_rejected}
    with journal.stage_run("prepare", parameters, label=name) as run:
        found = open_source(source, synsets, labelled=role != "ood")
        if role != "ood" and not found.classes:
            raise MofeError(
                f"{source} has no labels ({found.in_place_of_labels}): the {role} set needs class folders, a column "
                "label, or .cls files"
            )
        account = Account(found, images_per_class)
        with writing.staged(images) as folder:
            with write_image_shards(folder, found.classes) as writer:
                read = read_ahead(account.wanted(), stored_form, ahead=AHEAD)
                for image, content in account.settle(progress(read, label=f"prepare {name}", total=found.total)):
                    writer.add(content, image.path, image.label)
            account.check(source)
            _check_result(source, role, account, max_rejected)
            ImageSet(
                name=name,
                role=role,
                source=locations.recorded(source),
                digest=digest,
                classes=found.classes,
                synsets=found.synsets,
                counts=tuple(writer.counts),
                num_listed=found.listed,
                num_images=account.num_images,
                num_rejected=account.num_rejected,
                num_passed_over=account.passed.total,
                rejected=_aside(account.rejected),
                passed_over=_aside(account.passed.first),
                notes=found.notes,
                parameters={"images_per_class": images_per_class, "max_rejected": max_rejected, "synsets": synsets},
            ).write(folder)
        for line in (f"{name}: {account}", *found.notes):
            print(line)
        run.metrics(
            {
                "images": account.num_images,
                "classes": len(found.classes),
                "rejected": account.num_rejected,
                "passed_over": account.passed.total,
            }
        )


def _aside(entries: list[tuple[str, str]]) -> tuple[Aside, ...]:
    return tuple(Aside(path=path, reason=reason) for path, reason in entries)


def _check_result(source: str, role: str, account: Account, max_rejected: float) -> None:
    """Refuse a set that cannot be used for its role."""
    good, bad = account.num_images, account.num_rejected
    if bad and bad > max_rejected * (good + bad):
        examples = "; ".join(f"{path}: {reason}" for path, reason in account.rejected[:3])
        raise MofeError(
            f"{bad} of {good + bad} files at {source} are unreadable, more than max_rejected = {max_rejected:g}: "
            f"{examples}"
        )
    if good == 0:
        raise MofeError(f"there are no images at {source}: {account}")
    if role == "ood":
        return
    classes = account.source.classes
    if role == "train" and len(classes) < 2:
        raise MofeError(f"{source} has one class only, {classes[0]!r}: there is nothing to tell apart")
    named = range(len(classes)) if role == "train" else account.met - {-1}  # a test set need not have every class
    least = 2 if role == "train" else 1
    scarce = [f"{classes[c]} ({account.images[c]})" for c in sorted(named) if account.images[c] < least]
    if scarce:
        more = f" and {len(scarce) - 5} more" if len(scarce) > 5 else ""
        needs = "at least two images, one to train on and one to validate" if role == "train" else "an image"
        raise MofeError(f"every class of {source} needs {needs}; too few in {', '.join(scarce[:5])}{more}")
