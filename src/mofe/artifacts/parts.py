"""Shards of an image set: the images of each, and a check that the parts made from them form one whole."""

from collections.abc import Sequence
from typing import TypeVar

from upath import UPath

from mofe.artifacts.features import FeaturePart
from mofe.artifacts.scores import ScorePart
from mofe.errors import MofeError
from mofe.storage import locations

Part = TypeVar("Part", FeaturePart, ScorePart)

TOGETHER = 32
"""Batches that score searches together, because neighbours of 4096 images at once are found twice as fast as of 128."""


def bounds(num_images: int, batch_size: int, shards: int) -> list[int]:
    """Position where each shard begins, and last the one where the last shard ends.

    A shard holds whole groups of :data:`TOGETHER` batches, in order; the numbers of groups differ by at most one. So
    every batch and group is the same as without shards, and the results are equal to the bit. There are no more
    shards than groups.
    """
    if shards < 1 or batch_size < 1:
        raise MofeError(f"shards = {shards} and batch_size = {batch_size} must be at least 1")
    size = TOGETHER * batch_size
    groups = -(-num_images // size)
    count = min(shards, groups)
    return [min(groups * shard // count * size, num_images) for shard in range(count + 1)]


def check_shards(shards: int) -> None:
    """Refuse to split into fewer than two shards.

    Raises:
        MofeError: ``shards`` is less than 2.
    """
    if shards < 2:
        raise MofeError(f"shards = {shards:g} must be at least 2: to run without shards, use the pipeline mofe")


def images_of(shard: int, shards: int, num_images: int, batch_size: int) -> range:
    """Positions of the images of a shard.

    Raises:
        MofeError: there is no such shard.
    """
    starts = bounds(num_images, batch_size, int(shards))  # Kubeflow passes numbers as floats
    if not 0 <= shard < len(starts) - 1:
        raise MofeError(
            f"shard = {shard:g} must lie between 0 and {len(starts) - 2}, the shards of {num_images} images in groups "
            f"of {TOGETHER} batches of {batch_size}"
        )
    return range(starts[int(shard)], starts[int(shard) + 1])


def in_order(kind: type[Part], uris: Sequence[str]) -> list[tuple[Part, UPath]]:
    """Read the manifests of the parts of one whole, and sort them by their images.

    Returns:
        The manifest and the folder of each part.

    Raises:
        MofeError: a part belongs to another whole, or the parts together do not hold every image exactly once.
    """
    found: list[tuple[Part, UPath]] = [(kind.read(uri), locations.resolve(uri)) for uri in uris]
    found.sort(key=lambda part: part[0].start)
    if not found:
        raise MofeError("expected at least one part of a whole, found none")
    first, place = found[0]
    for info, other in found:
        if info.whole != first.whole:
            ours, theirs = dict(info.whole), dict(first.whole)
            unlike = ", ".join(name for name in ours if ours[name] != theirs[name])
            raise MofeError(
                f"{other} and {place} are not parts of the same whole: they differ in {unlike}. Give all of one run"
            )
    if [*(info.start for info, _ in found), first.num_images] != [0, *(info.stop for info, _ in found)]:
        held = ", ".join(f"{info.start} to {info.stop}" for info, _ in found)
        raise MofeError(f"expected parts that hold the images 0 to {first.num_images} once each, found {held}")
    return found
