"""Numbers the shards of an image set."""

from mofe.artifacts.image_set import ImageSet
from mofe.artifacts.parts import bounds, check_shards


def plan_shards(images: str, *, shards: int = 8, batch_size: int = 128) -> list[int]:
    """Number the shards of an image set. Each shard has the same number of groups of 32 batches.

    Args:
        images: image set written by prepare (path or URI).
        shards: largest number of shards, at least 2; a set with fewer groups has fewer shards.
        batch_size: images per batch, the same as for extract and score.

    Returns:
        The numbers of the shards.

    Raises:
        MofeError: ``shards`` is less than 2.
    """
    check_shards(shards)
    info = ImageSet.read(images)
    count = len(bounds(info.num_images, int(batch_size), int(shards))) - 1
    print(f"{info.num_images} images in {count} shards")
    return list(range(count))
