"""Resized images and random crops against timm's own, by Pillow."""

import random

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from timm.data import create_transform
from timm.data.transforms import RandomResizedCropAndInterpolation
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import pil_to_tensor

from mofe.artifacts.backbone import Preprocessing
from mofe.data.loader import evaluation_transform, training_transform
from mofe.data.resize import QuickRandomResizedCrop, QuickResize

PHOTOGRAPHS = [Image.fromarray(photo) for photo in load_sample_images().images]
NARROW = [photo.resize((60, 400)) for photo in PHOTOGRAPHS]


def both(image: Image.Image, size: int, kind: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    found = []
    for crop in (QuickRandomResizedCrop, RandomResizedCropAndInterpolation):
        random.seed(seed)
        made = crop(size, (0.08, 1.0), interpolation=kind)(image)
        found.append(np.asarray(made if isinstance(made, Tensor) else pil_to_tensor(made)).astype(int))
        assert found[-1].shape == (3, size, size)
    return found[0], found[1]


@pytest.mark.parametrize("kind", ["bilinear", "bicubic"])
@pytest.mark.parametrize("image", [*PHOTOGRAPHS, *NARROW], ids=["flower", "temple", "narrow-flower", "narrow-temple"])
def test_the_same_crops_and_all_but_the_same_values(image: Image.Image, kind: str) -> None:
    for seed in range(5):
        ours, theirs = both(image, 96, kind, seed)
        assert np.abs(ours - theirs).max() <= 2
        assert (ours != theirs).mean() < 0.01


def preprocessing_of(size: int, kind: str) -> Preprocessing:
    return Preprocessing(image_size=size, mean=(0.5,) * 3, std=(0.5,) * 3, interpolation=kind, crop_fraction=0.9)


@pytest.mark.parametrize(("kind", "most"), [("bilinear", 2), ("bicubic", 2), ("lanczos", 0)])
@pytest.mark.parametrize("size", [96, 500])
@pytest.mark.parametrize("image", [*PHOTOGRAPHS, *NARROW], ids=["flower", "temple", "narrow-flower", "narrow-temple"])
def test_for_evaluation_too(image: Image.Image, size: int, kind: str, most: int) -> None:
    theirs = create_transform(size, interpolation=kind, crop_pct=0.9, use_prefetcher=True)
    ours = evaluation_transform(preprocessing_of(size, kind))
    assert torch.equal(ours(image), ours(pil_to_tensor(image)))
    ours_CHW, theirs_CHW = (
        np.asarray(t(image)).astype(int) for t in (evaluation_transform(preprocessing_of(size, kind)), theirs)
    )
    assert ours_CHW.shape == theirs_CHW.shape == (3, size, size)
    assert np.abs(ours_CHW - theirs_CHW).max() <= most
    assert (ours_CHW != theirs_CHW).mean() < 0.01


def test_other_kinds_of_resampling_are_pillows() -> None:
    transform = training_transform(preprocessing_of(96, "lanczos"), "crop")
    assert type(transform.transforms[1]) is RandomResizedCropAndInterpolation
    assert transform(pil_to_tensor(PHOTOGRAPHS[0])).shape == (3, 96, 96)


@pytest.mark.parametrize(("kind", "filter_", "most"), [("bilinear", 2, 0.08), ("bicubic", 3, 0.01)])
@pytest.mark.parametrize("shape", [(900, 300), (300, 900), (256, 64), (64, 64), (427, 640), (1000, 240), (448, 448)])
@pytest.mark.parametrize("image", PHOTOGRAPHS, ids=["flower", "temple"])
def test_every_shape_is_resized_as_by_pillow_up_to_12(
    image: Image.Image, shape: tuple[int, int], kind: str, filter_: int, most: float
) -> None:
    """First horizontally, then vertically; Pillow 13 does so too if it is told to resize twice."""
    height, width = shape
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    for size in (224, 256):
        ours_CHW = QuickResize(size, InterpolationMode(kind))(image).numpy().astype(int)
        wide = image.resize((ours_CHW.shape[2], height), Image.Resampling(filter_))
        theirs = wide.resize((ours_CHW.shape[2], ours_CHW.shape[1]), Image.Resampling(filter_))
        theirs_CHW = pil_to_tensor(theirs).numpy().astype(int)
        assert np.abs(ours_CHW - theirs_CHW).max() <= 2
        assert (ours_CHW != theirs_CHW).mean() < most
