"""From image shards to batches of tensors: decoding, the backbone's transform, shuffling, workers.

Shuffling happens in windows of row groups: the row groups of an epoch are permuted, and images are permuted within
each window of consecutive row groups, so that a worker holds a bounded number of them. Shards are written in mixed
order, so this comes close to a global shuffle.

What an image looks like after augmentation depends on (seed, epoch, position in the set) alone: neither on the number
of workers nor on what was drawn before, so a resumed run sees what the interrupted one would have seen.
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
from mofe.errors import MofeError

FEW = 8
"""Images that are decoded before the first of them is transformed."""

Transform = Callable[[Image.Image | Tensor], Tensor]
"""Of an image in RGB: Pillow's, or bytes (3, H, W)."""


def evaluation_transform(preprocessing: Preprocessing) -> Transform:
    """The backbone's own: resize, centre crop. It gives bytes (3, H, W), which :func:`normalised` takes."""
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
    """The backbone's transform with augmentation; it gives bytes (3, H, W), which :func:`normalised` takes.

    Args:
        augmentation: ``randaugment`` (random resized crop, flip, RandAugment of magnitude 9: the paper's recipe),
            ``crop-flip``, ``crop`` (for images whose mirror image means something else), or ``none``.
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
        color_jitter=None,  # with 0.0, timm's would do nothing at the price of a decoded thumbnail's half
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
                operation.aug_fn = _posterized
        steps.insert(place, _for_pillow)
    return transform


def _for_pillow(image: Image.Image | Tensor) -> Image.Image:
    return to_pil_image(image) if isinstance(image, Tensor) else image


def _posterized(image: Image.Image, bits: int, **given: Any) -> Image.Image:
    """timm's ``posterize``, which draws 0 bits for one image in 700: a black one, that Pillow 13 refuses to make."""
    return posterize(image, bits, **given) if bits else Image.new(image.mode, image.size)


def normalised(pixels: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Bytes (B, 3, H, W) as the backbone wants them: float32 in [0, 1], less the mean, by the standard deviation.

    It comes last, on the device: so a worker process hands over a quarter of the memory, and has less to compute.
    """
    mean_C11, std_C11 = (
        torch.tensor(values)[:, None, None].to(pixels.device, non_blocking=pixels.is_cuda)  # no wait for a GPU
        for values in (preprocessing.mean, preprocessing.std)
    )
    images = torch.empty(pixels.shape, device=pixels.device)
    some = 4 if pixels.is_cpu else len(pixels)  # as many as stay in the processor's cache
    for few, place in zip(pixels.split(some), images.split(some), strict=True):
        torch.div(few, 255, out=place).sub_(mean_C11).div_(std_C11)
    return images


class ShardDataset(Dataset[tuple[Tensor, int, int]]):
    """Images of a shard set by position: ``(bytes (3, H, W), label, position)``.

    Args:
        shards: the image set.
        transform: what to make of a decoded image.
        seed: start of the random numbers of augmentation (set ``epoch`` before each epoch); None where the transform
            draws none.
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
        """What a loader asks for: a batch, of which a few images at once are decoded and then transformed.

        So the code of each step stays in the processor's cache, which saves a quarter of a thumbnail's time.
        """
        return [item for start in range(0, len(positions), FEW) for item in self._items(positions[start : start + FEW])]

    def _items(self, positions: Sequence[int]) -> list[tuple[Tensor, int, int]]:
        found = [self.shards.image(position) for position in positions]
        pixels = [decode_pixels(content) for content, _, _ in found]
        return [
            (self._transformed(image, position), label, position)
            for image, (_, _, label), position in zip(pixels, found, positions, strict=True)
        ]

    def _transformed(self, image: Tensor, position: int) -> Tensor:
        if self.seed is not None:  # torchvision and timm draw from these three, without a generator of one's own
            state = np.random.SeedSequence((self.seed, self.epoch, position)).generate_state(3)
            random.seed(int(state[0]))
            np.random.seed(int(state[1]))
            # torch.manual_seed would also ask after every accelerator, which takes longer than decoding a thumbnail
            torch.default_generator.manual_seed(int(state[2]))
        return self.transform(image)


def shuffled_positions(group_sizes: Sequence[int], seed: int, epoch: int) -> np.ndarray:
    """The order of an epoch: every position once, windows of row groups shuffled (see the module's text)."""
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
    """Batches ``(bytes (B, 3, H, W), labels (B,), positions (B,))`` of the given positions, in their order.

    Raises:
        MofeError: ``batch_size`` < 1 or ``num_workers`` < 0.
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
    yield from loader


def _leave_the_group(_: int) -> None:
    """Where a training heeds SIGTERM, it needs these images for its checkpoint: torchrun signals the whole group."""
    if callable(signal.getsignal(signal.SIGTERM)):
        os.setpgid(0, 0)
