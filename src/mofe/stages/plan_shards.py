"""Into which shards an image set is split."""

from mofe.artifacts.image_set import ImageSet
from mofe.artifacts.parts import bounds, check_shards


def plan_shards(images: str, *, shards: int = 8, batch_size: int = 128) -> list[int]:
    """Number the shards of an image set: each is as many groups of 32 batches as another, and few images make few.

    Args:
        images: image set written by prepare (path or URI).
        shards: how many, at most; at least 2.
        batch_size: images at once, as extract and score will have them.

    Returns:
        The numbers of the shards.
    """
    check_shards(shards)
    info = ImageSet.read(images)
    count = len(bounds(info.num_images, int(batch_size), int(shards))) - 1
    print(f"{info.num_images} images in {count} shards")
    return list(range(count))
