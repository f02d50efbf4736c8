"""An image set in shards: which images each holds, and whether parts made of them are one whole."""

from collections.abc import Sequence
from typing import TypeVar

from upath import UPath

from mofe.artifacts.features import FeaturePart
from mofe.artifacts.scores import ScorePart
from mofe.errors import MofeError
from mofe.storage import locations

Part = TypeVar("Part", FeaturePart, ScorePart)

TOGETHER = 32
"""Batches that score looks at together: in 4096 images at once neighbours are found twice as fast as in 128."""


def bounds(num_images: int, batch_size: int, shards: int) -> list[int]:
    """Where each shard begins, and where the last one ends.

    A shard is as many groups of :data:`TOGETHER` whole batches as any other, or one more, in order, so that every batch
    and group is made up as if there were no shards, and what comes of it is the same to the bit. There are no more
    shards than groups.
    """
    if shards < 1 or batch_size < 1:
        raise MofeError(f"shards = {shards} and batch_size = {batch_size} must be at least 1")
    size = TOGETHER * batch_size
    groups = -(-num_images // size)
    count = min(shards, groups)
    return [min(groups * shard // count * size, num_images) for shard in range(count + 1)]


def check_shards(shards: int) -> None:
    """Refuse to split into one.

    Raises:
        MofeError: it was asked for.
    """
    if shards < 2:
        raise MofeError(f"shards = {shards:g} must be at least 2: what is not to be split is for the pipeline mofe")


def images_of(shard: int, shards: int, num_images: int, batch_size: int) -> range:
    """The positions of the images of a shard.

    Raises:
        MofeError: there is no such shard.
    """
    starts = bounds(num_images, batch_size, int(shards))  # Kubeflow hands numbers on as floats
    if not 0 <= shard < len(starts) - 1:
        raise MofeError(
            f"shard = {shard:g}: {num_images} images in groups of {TOGETHER} batches of {batch_size} have the shards "
            f"0 to {len(starts) - 2}"
        )
    return range(starts[int(shard)], starts[int(shard) + 1])


def in_order(kind: type[Part], uris: Sequence[str]) -> list[tuple[Part, UPath]]:
    """The parts of one whole by their images, whatever order they come in: their manifests, and where they are.

    Raises:
        MofeError: some belong to another whole; or together they do not hold every image once.
    """
    found: list[tuple[Part, UPath]] = [(kind.read(uri), locations.resolve(uri)) for uri in uris]
    found.sort(key=lambda part: part[0].start)
    if not found:
        raise MofeError("expected the parts of a whole, found none")
    first, place = found[0]
    for info, other in found:
        if info.whole != first.whole:
            raise MofeError(f"{other} and {place} are not parts of the same whole")
    if [*(info.start for info, _ in found), first.num_images] != [0, *(info.stop for info, _ in found)]:
        held = ", ".join(f"{info.start} to {info.stop}" for info, _ in found)
        raise MofeError(f"expected parts that hold the images 0 to {first.num_images} once each, found {held}")
    return found
