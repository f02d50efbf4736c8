"""Random crops against timm's own, which Pillow resizes."""

import random

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images
from timm.data.transforms import RandomResizedCropAndInterpolation

from mofe.data.crop import RandomResizedCrop

PHOTOGRAPHS = [Image.fromarray(photo) for photo in load_sample_images().images]
NARROW = [photo.resize((60, 400)) for photo in PHOTOGRAPHS]


def both(image: Image.Image, size: int, kind: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    found = []
    for crop in (RandomResizedCrop, RandomResizedCropAndInterpolation):
        random.seed(seed)
        made = crop(size, (0.08, 1.0), interpolation=kind)(image)
        assert (made.size, made.mode) == ((size, size), "RGB")
        found.append(np.asarray(made).astype(int))
    return found[0], found[1]


@pytest.mark.parametrize("kind", ["bilinear", "bicubic"])
@pytest.mark.parametrize("image", [*PHOTOGRAPHS, *NARROW], ids=["flower", "temple", "narrow-flower", "narrow-temple"])
def test_the_same_crops_and_all_but_the_same_values(image: Image.Image, kind: str) -> None:
    for seed in range(5):
        ours, theirs = both(image, 96, kind, seed)
        assert np.abs(ours - theirs).max() <= 2
        assert (ours != theirs).mean() < 0.01


@pytest.mark.parametrize(("side", "kind"), [(400, "lanczos"), (120, "bicubic")])
def test_other_kinds_of_resampling_and_small_images_are_pillows(side: int, kind: str) -> None:
    ours, theirs = both(PHOTOGRAPHS[0].resize((side, side)), 96, kind, 0)
    assert np.array_equal(ours, theirs)
