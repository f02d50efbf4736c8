"""Copies of generated pictures, saved in the ways in which people save them."""

import io

import numpy as np
import pytest
from PIL import Image

from mofe.data.duplicates import Looks, looks_of, same_pictures


def picture(seed: int) -> Image.Image:
    """A picture with a photograph's spectrum: amplitudes that fall with the frequency."""
    noise = np.random.default_rng(seed).standard_normal((3, 140, 180))
    frequency = np.hypot(np.fft.fftfreq(140)[:, None], np.fft.fftfreq(180)[None])
    values = np.fft.ifft2(np.fft.fft2(noise) / np.maximum(frequency, 1 / 180) ** 1.2).real
    levels = 127 + 50 * (values - values.mean()) / values.std()
    return Image.fromarray(np.clip(levels, 0, 250).astype(np.uint8).transpose(1, 2, 0))


def looks(image: Image.Image, kind: str = "PNG", **options: object) -> Looks:
    content = io.BytesIO()
    image.save(content, kind, **options)
    return looks_of(content.getvalue())


@pytest.mark.parametrize(
    "copy",
    [
        pytest.param(lambda image: looks(image, "JPEG", quality=60), id="compressed"),
        pytest.param(lambda image: looks(image, "WEBP", quality=80), id="another format"),
        pytest.param(lambda image: looks(image.resize((90, 70))), id="half the size"),
        pytest.param(lambda image: looks(image.resize((400, 311), Image.Resampling.BICUBIC)), id="larger"),
        pytest.param(lambda image: looks(image.point(lambda value: min(255, value + 3))), id="a little brighter"),
    ],
)
def test_a_picture_saved_in_another_way_is_the_same(copy: object) -> None:
    assert callable(copy)
    image = picture(1)
    numbers = same_pictures([looks(picture(2)), looks(image), copy(image), looks(picture(3))])
    assert numbers[1] == numbers[2]
    assert len(set(numbers)) == 3


def test_a_copy_turned_by_its_exif_is_the_same() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 270° to see it upright
    turned = picture(1).transpose(Image.Transpose.ROTATE_90)
    assert len(set(same_pictures([looks(picture(1)), looks(turned, exif=exif)]))) == 1


def test_copies_of_copies_are_one_picture() -> None:
    image = picture(4)
    brighter = [image.point(lambda value, step=step: min(255, value + 4 * step)) for step in range(3)]
    assert len(set(same_pictures([looks(some) for some in brighter]))) == 1
    assert len(set(same_pictures([looks(brighter[0]), looks(brighter[2])]))) == 2, "8 levels are more than allowed"


def test_even_pictures_differ_by_their_colour() -> None:
    colours = ["black", "white", "red", "blue"]
    assert len(set(same_pictures([looks(Image.new("RGB", (50, 50), colour)) for colour in colours]))) == 4


def test_pictures_that_differ_in_colour_alone_are_two() -> None:
    image = picture(5)
    red, green, blue = image.split()
    assert len(set(same_pictures([looks(image), looks(Image.merge("RGB", (blue, red, green)))]))) == 2


def test_different_pictures_are_told_apart_beyond_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mofe.data.duplicates.BLOCK", 16)
    images = [looks(picture(seed)) for seed in range(40)]
    numbers = same_pictures([*images, images[3], images[39]])
    assert len(set(numbers)) == 40
    assert numbers[40] == numbers[3]
    assert numbers[41] == numbers[39]


def test_no_image_has_no_copies() -> None:
    assert same_pictures([]).tolist() == []
