"""Images from shards: what augmentation draws depends on seed, epoch and position alone."""

import multiprocessing
import os
import random
import signal
from collections.abc import Callable

import numpy as np
import pytest
import timm.data
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from mofe.artifacts.backbone import Preprocessing
from mofe.artifacts.image_shards import ImageShards
from mofe.data.loader import FEW, ShardDataset, batches, normalised, training_transform
from mofe.data.pixels import decode_pixels

GREY = Preprocessing(
    image_size=16, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.1), interpolation="bicubic", crop_fraction=0.9
)
BLAND = Preprocessing(image_size=16, mean=(0, 0, 0), std=(1, 1, 1), interpolation="bicubic", crop_fraction=1.0)


@pytest.mark.parametrize("augmentation", ["none", "randaugment", "crop-flip"])
def test_normalised_at_the_end_it_is_timms_own_transform_to_the_bit(
    augmentation: str, make_images: Callable[..., str]
) -> None:
    dataset = ShardDataset(ImageShards(make_images()), training_transform(GREY, augmentation), seed=1)
    to_tensor, normalise = timm.data.create_transform(16, mean=GREY.mean, std=GREY.std).transforms[-2:]
    batch = torch.stack([dataset[i][0] for i in range(9)])
    assert (batch.dtype, batch.shape) == (torch.uint8, (9, 3, 16, 16))
    for pixels, found in zip(batch, normalised(batch, GREY), strict=True):
        assert torch.equal(found, normalise(to_tensor(to_pil_image(pixels))))
        assert torch.equal(normalised(pixels[None], GREY)[0], found)


def test_an_image_is_augmented_alike_whatever_was_drawn_before(make_images: Callable[..., str]) -> None:
    dataset = ShardDataset(ImageShards(make_images()), training_transform(BLAND, "randaugment"), seed=3)
    before = [dataset[i][0] for i in range(6)]
    torch.rand(17)
    for i in (5, 2, 0):
        torch.testing.assert_close(dataset[i][0], before[i], rtol=0, atol=0)
    dataset.epoch = 1
    assert any(not torch.equal(dataset[i][0], before[i]) for i in range(6))


def test_a_batch_is_its_images_one_by_one(make_images: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = ShardDataset(ImageShards(make_images()), training_transform(BLAND, "randaugment"), seed=3)
    decoded, transformed, transform = 0, 0, dataset.transform

    def counted(content: bytes) -> Tensor:
        nonlocal decoded
        decoded += 1
        assert decoded - transformed <= FEW, "no more are held"
        return decode_pixels(content)

    def one(image: Tensor) -> Tensor:
        nonlocal transformed
        transformed += 1
        return transform(image)

    positions = [5, 40, *range(30), 5]
    alone = [dataset[position] for position in positions]
    monkeypatch.setattr("mofe.data.loader.decode_pixels", counted)
    dataset.transform = one
    together = dataset.__getitems__(positions)
    assert [item[1:] for item in together] == [item[1:] for item in alone]
    assert all(torch.equal(a[0], b[0]) for a, b in zip(together, alone, strict=True))
    assert decoded == transformed == len(positions)


@pytest.mark.integration
@pytest.mark.parametrize("heeded", [True, False])
def test_where_sigterm_is_heeded_a_signal_to_the_group_does_not_end_the_workers(
    make_images: Callable[..., str], heeded: bool
) -> None:
    dataset = ShardDataset(ImageShards(make_images()), training_transform(BLAND, "crop-flip"), seed=3)
    others = set(multiprocessing.active_children())
    before = signal.signal(signal.SIGTERM, (lambda *_: None) if heeded else signal.SIG_DFL)
    try:
        loaded = batches(dataset, np.arange(8), 2, num_workers=2)
        next(loaded), next(loaded)  # one of each worker
        workers = set(multiprocessing.active_children()) - others
        groups = {os.getpgid(int(worker.pid or 0)) for worker in workers}
        assert (os.getpgid(0) in groups) is not heeded
        assert len(groups) == (2 if heeded else 1)
        assert len(list(loaded)) == 2
    finally:
        signal.signal(signal.SIGTERM, before)


def test_seeding_an_image_does_not_go_round_the_accelerators(
    make_images: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = ShardDataset(ImageShards(make_images()), training_transform(BLAND, "crop-flip"), seed=3)
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("it formats a stack trace each time"))
    dataset[0]


def test_randaugment_bears_whatever_it_draws() -> None:
    """Once in 700 images timm keeps no bit of a colour, which Pillow 13 calls an error."""
    transform = training_transform(GREY, "randaugment")
    image = Image.effect_noise((24, 24), 60).convert("RGB")
    random.seed(0)
    black = 0
    for _ in range(5000):
        black += int(transform(image).max()) == 0
    assert black
