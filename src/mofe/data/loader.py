"""Loading of image shards as batches of tensors: decoding, the backbone's transform, shuffling, workers.

Shuffling works in windows of row groups. The row groups of an epoch are permuted, and images are permuted within each
window of consecutive row groups, so that a worker holds a bounded number of groups. Shards are written in mixed order,
so this comes close to a global shuffle.

The augmentation of an image depends on (seed, epoch, position in the set) alone. It depends neither on the number of
workers nor on earlier random draws, so a resumed run gets the same images as an uninterrupted one.
"""

import os
import random
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data import create_transform
from timm.data.auto_augment import RandAugment, posterize
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.functional import to_pil_image

from mofe.artifacts.backbone import Preprocessing
from mofe.artifacts.image_shards import ImageShards
from mofe.data.malloc import keep_freed_memory
from mofe.data.pixels import decode_pixels
from mofe.data.resize import KINDS, QuickRandomResizedCrop, QuickResize
from mofe.data.shared_memory import shared_memory_named
from mofe.errors import MofeError

FEW = 8
"""Number of images that are decoded before the first of them is transformed."""

Transform = Callable[[Image.Image | Tensor], Tensor]
"""A transform of an RGB image: Pillow's, or bytes (3, H, W)."""


def evaluation_transform(preprocessing: Preprocessing) -> Transform:
    """The backbone's own transform: resize and centre crop to bytes (3, H, W), the input of :func:`normalised`."""
    transform = create_transform(
        input_size=preprocessing.image_size,
        interpolation=preprocessing.interpolation,
        mean=preprocessing.mean,
        std=preprocessing.std,
        crop_pct=preprocessing.crop_fraction,
        use_prefetcher=True,
    )
    steps = transform.transforms
    if preprocessing.interpolation in KINDS:
        steps[0] = QuickResize(steps[0].size, steps[0].interpolation)
    else:
        steps.insert(0, _for_pillow)
    return transform


def training_transform(preprocessing: Preprocessing, augmentation: str) -> Transform:
    """The backbone's transform with augmentation, to bytes (3, H, W), the input of :func:`normalised`.

    Args:
        preprocessing: the backbone's preprocessing.
        augmentation: ``randaugment`` (random resized crop, flip, RandAugment of magnitude 9, as in the authors' code),
            ``crop-flip``, ``crop`` (for images that must not be mirrored, such as digits), or ``none``.
    """
    if augmentation == "none":
        return evaluation_transform(preprocessing)
    transform = create_transform(
        input_size=preprocessing.image_size,
        is_training=True,
        interpolation=preprocessing.interpolation,
        mean=preprocessing.mean,
        std=preprocessing.std,
        scale=(0.08, 1.0) if augmentation == "randaugment" else (0.5, 1.0),
        hflip=0.0 if augmentation == "crop" else 0.5,
        color_jitter=None,  # 0.0 has no effect either, but takes half the time of decoding a thumbnail
        auto_augment="rand-m9-mstd0.5-inc1" if augmentation == "randaugment" else None,
        use_prefetcher=True,
    )
    steps = transform.transforms
    if preprocessing.interpolation in KINDS:
        steps[0] = QuickRandomResizedCrop(steps[0].size, steps[0].scale, steps[0].ratio, preprocessing.interpolation)
    else:
        steps.insert(0, _for_pillow)
    if augmentation == "randaugment":
        place = next(i for i, step in enumerate(steps) if isinstance(step, RandAugment))
        for operation in steps[place].ops:
            if operation.aug_fn is posterize:
                operation.aug_fn = _posterize
        steps.insert(place, _for_pillow)
    return transform


def _for_pillow(image: Image.Image | Tensor) -> Image.Image:
    return to_pil_image(image) if isinstance(image, Tensor) else image


def _posterize(image: Image.Image, bits: int, **given: Any) -> Image.Image:
    """timm's ``posterize``, also for 0 bits, which it draws for one image in 700: a black image.

    Pillow 13 refuses 0 bits.
    """
    return posterize(image, bits, **given) if bits else Image.new(image.mode, image.size)


def normalised(pixels: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Normalise bytes (B, 3, H, W) for the backbone: to float32 in [0, 1], minus the mean, over the standard deviation.

    This runs last, on the device. So a worker process passes on a quarter of the memory, and computes less.
    """
    mean_C11, std_C11 = (
        torch.tensor(values)[:, None, None].to(pixels.device, non_blocking=pixels.is_cuda)  # do not wait for a GPU
        for values in (preprocessing.mean, preprocessing.std)
    )
    images = torch.empty(pixels.shape, device=pixels.device)
    some = 4 if pixels.is_cpu else len(pixels)  # 4 images fit into the processor's cache
    for few, place in zip(pixels.split(some), images.split(some), strict=True):
        torch.div(few, 255, out=place).sub_(mean_C11).div_(std_C11)
    return images


class ShardDataset(Dataset[tuple[Tensor, int, int]]):
    """Images of a shard set by position: ``(bytes (3, H, W), label, position)``.

    Args:
        shards: the image set.
        transform: transform of a decoded image.
        seed: seed of the augmentation (set ``epoch`` before each epoch); None if the transform is not random.
    """

    def __init__(self, shards: ImageShards, transform: Transform, seed: int | None = None):
        self.shards = shards
        self.transform = transform
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.shards)

    def __getitem__(self, position: int) -> tuple[Tensor, int, int]:
        return self.__getitems__([position])[0]

    def __getitems__(self, positions: Sequence[int]) -> list[tuple[Tensor, int, int]]:
        """Load a batch for the data loader; a few images at a time are decoded and then transformed.

        So the code of each step stays in the processor's cache, which saves a quarter of a thumbnail's time.
        """
        return [item for start in range(0, len(positions), FEW) for item in self._items(positions[start : start + FEW])]

    def _items(self, positions: Sequence[int]) -> list[tuple[Tensor, int, int]]:
        found = [self.shards.image(position) for position in positions]
        pixels = [decode_pixels(content) for content, _, _ in found]
        return [
            (self._transform_seeded(image, position), label, position)
            for image, (_, _, label), position in zip(pixels, found, positions, strict=True)
        ]

    def _transform_seeded(self, image: Tensor, position: int) -> Tensor:
        if self.seed is not None:  # torchvision and timm use these three global generators and accept no other
            state = np.random.SeedSequence((self.seed, self.epoch, position)).generate_state(3)
            random.seed(int(state[0]))
            np.random.seed(int(state[1]))
            # torch.manual_seed also seeds every accelerator, which takes longer than decoding a thumbnail
            torch.default_generator.manual_seed(int(state[2]))
        return self.transform(image)


def shuffled_positions(group_sizes: Sequence[int], seed: int, epoch: int) -> np.ndarray:
    """The order of an epoch: every position once, shuffled in windows of row groups (see the module's docstring)."""
    generator = np.random.default_rng((seed, epoch))
    starts = np.concatenate([[0], np.cumsum(group_sizes)])
    groups = generator.permutation(len(group_sizes))
    order = []
    for first in range(0, len(groups), ImageShards.HELD):
        window = [np.arange(starts[g], starts[g + 1]) for g in groups[first : first + ImageShards.HELD]]
        order.append(generator.permutation(np.concatenate(window)))
    return np.concatenate(order) if order else np.empty(0, np.int64)


def batches(
    dataset: ShardDataset, positions: np.ndarray, batch_size: int, num_workers: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield batches ``(bytes (B, 3, H, W), labels (B,), positions (B,))`` of the given positions, in their order.

    Raises:
        MofeError: ``batch_size`` < 1 or ``num_workers`` < 0, or the processes cannot share memory.
    """
    if batch_size < 1 or num_workers < 0:
        raise MofeError(f"batch_size = {batch_size} must be at least 1, num_workers = {num_workers} at least 0")
    keep_freed_memory()
    chunks = [positions[i : i + batch_size].tolist() for i in range(0, len(positions), batch_size)]
    loader: DataLoader[tuple[Tensor, int, int]] = DataLoader(
        dataset,
        batch_sampler=chunks,
        num_workers=min(num_workers, len(chunks)),
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_leave_the_group,
    )
    with shared_memory_named(loader.num_workers):
        yield from loader


def _leave_the_group(_: int) -> None:
    """Leave the process group if training handles SIGTERM, because torchrun sends the signal to the whole group.

    Training still needs the workers' images for its checkpoint.
    """
    if callable(signal.getsignal(signal.SIGTERM)):
        os.setpgid(0, 0)
