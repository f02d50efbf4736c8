"""Images from shards: what augmentation draws depends on seed, epoch and position alone."""

from collections.abc import Callable

import pytest
import torch

from mofe.artifacts import ImageShards, Preprocessing
from mofe.data.loader import ShardDataset, training_transform

BLAND = Preprocessing(image_size=16, mean=(0, 0, 0), std=(1, 1, 1), interpolation="bicubic", crop_fraction=1.0)


def test_an_image_is_augmented_alike_whatever_was_drawn_before(make_images: Callable[..., str]) -> None:
    dataset = ShardDataset(ImageShards(make_images()), training_transform(BLAND, "randaugment"), seed=3)
    before = [dataset[i][0] for i in range(6)]
    torch.rand(17)
    for i in (5, 2, 0):
        torch.testing.assert_close(dataset[i][0], before[i], rtol=0, atol=0)
    dataset.epoch = 1
    assert any(not torch.equal(dataset[i][0], before[i]) for i in range(6))


def test_seeding_an_image_does_not_go_round_the_accelerators(
    make_images: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = ShardDataset(ImageShards(make_images()), training_transform(BLAND, "crop-flip"), seed=3)
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("it formats a stack trace each time"))
    dataset[0]
