"""Reads images from any source and writes them as shards in one format."""

from mofe.artifacts.image_set import ImageSet, Rejected, Role, write_image_shards
from mofe.data.images import stored_form
from mofe.data.read_ahead import read_ahead
from mofe.data.sources import open_source
from mofe.errors import MofeError
from mofe.progress import progress
from mofe.storage import writing
from mofe.tracking import journal

AHEAD = 64
"""Number of images read ahead of the writer. It limits the memory."""
LISTED = 1000
"""Largest number of rejected files that the manifest lists; it counts all of them."""


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

    It skips an unreadable file and lists it with the reason. It keeps RGB files in JPEG, PNG or WebP byte for byte, and
    converts other files to lossless PNG.

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
        found = open_source(source, synsets).limited(images_per_class)
        if role != "ood" and not found.classes:
            raise MofeError(f"{source} has no labels: the {role} set needs class folders, a label column, or both")
        rejected: list[Rejected] = []
        bad = 0
        with writing.staged(images) as folder:
            with write_image_shards(folder, found.classes) as writer:
                images_read = read_ahead(found.images(), stored_form, ahead=AHEAD)
                for image, content, reason in progress(images_read, label=f"prepare {name}", total=found.total):
                    if content is not None:
                        writer.add(content, image.path, image.label)
                        continue
                    bad += 1
                    if len(rejected) < LISTED:
                        rejected.append(Rejected(path=image.path, reason=reason))
            _check_result(source, role, found.classes, writer.counts, writer.num_images, bad, rejected, max_rejected)
            ImageSet(
                name=name,
                role=role,
                source=source,
                digest=digest,
                classes=found.classes,
                synsets=found.synsets,
                counts=tuple(writer.counts),
                num_images=writer.num_images,
                num_rejected=bad,
                rejected=tuple(rejected),
                parameters={"images_per_class": images_per_class, "max_rejected": max_rejected, "synsets": synsets},
            ).write(folder)
        print(f"{name}: {writer.num_images} images of {len(found.classes)} classes, {bad} set aside")
        run.metrics({"images": writer.num_images, "classes": len(found.classes), "rejected": bad})


def _check_result(
    source: str,
    role: str,
    classes: tuple[str, ...],
    counts: list[int],
    good: int,
    bad: int,
    rejected: list[Rejected],
    max_rejected: float,
) -> None:
    """Raise MofeError for a set that cannot be used for its role."""
    if bad and bad > max_rejected * (good + bad):
        examples = "; ".join(f"{r.path}: {r.reason}" for r in rejected[:3])
        raise MofeError(
            f"{bad} of {good + bad} files at {source} are unreadable, more than max_rejected = {max_rejected:g}: "
            f"{examples}"
        )
    if good == 0:
        raise MofeError(f"there are no images at {source}")
    if role == "train":
        if len(classes) < 2:
            raise MofeError(f"{source} has one class only, {classes[0]!r}: there is nothing to tell apart")
        scarce = [f"{name} ({count})" for name, count in zip(classes, counts, strict=True) if count < 2]
        if scarce:
            more = f" and {len(scarce) - 5} more" if len(scarce) > 5 else ""
            raise MofeError(
                f"every class of {source} needs at least two images, one to train on and one to validate; too few in "
                f"{', '.join(scarce[:5])}{more}"
            )
