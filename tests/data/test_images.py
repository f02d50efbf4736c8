"""One image of every odd kind, against pixels computed by hand."""

import io

import numpy as np
import pytest
from PIL import Image

from mofe.data import images
from mofe.data.images import decode, stored_form, to_rgb


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


@pytest.fixture
def photo() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_plain_rgb_is_kept_byte_for_byte(photo: Image.Image, kind: str) -> None:
    content = encoded(photo, kind)
    assert stored_form(content) is content


def test_exif_rotation_is_applied_and_stored(photo: Image.Image) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 270° to see it upright
    content = encoded(photo, "PNG", exif=exif)
    upright = np.rot90(np.asarray(photo), 3)
    np.testing.assert_array_equal(np.asarray(decode(content)), upright)
    stored = stored_form(content)
    assert stored != content
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(stored))), upright)


def test_transparency_lies_on_white() -> None:
    pixels = np.zeros((2, 2, 4), np.uint8)
    pixels[0, 0] = [200, 0, 0, 255]
    pixels[0, 1] = [0, 0, 0, 0]
    pixels[1, 0] = [0, 0, 0, 128]
    rgb = np.asarray(decode(encoded(Image.fromarray(pixels), "PNG")))
    assert rgb[0, 0].tolist() == [200, 0, 0]
    assert rgb[0, 1].tolist() == [255, 255, 255]
    assert abs(int(rgb[1, 0, 0]) - 127) <= 1
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putdata([0, 1])
    out = np.asarray(decode(encoded(palette, "PNG", transparency=1)))
    assert out.tolist() == [[[10, 20, 30], [255, 255, 255]]]


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    deep = Image.fromarray(np.array([[0, 32768, 65535]], np.uint16))
    assert np.asarray(decode(encoded(deep, "PNG")))[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "CMYK", "YCbCr", "F", "I"])
def test_every_mode_becomes_rgb(photo: Image.Image, mode: str) -> None:
    assert to_rgb(photo.convert(mode)).mode == "RGB"


def test_a_white_that_is_a_little_more_than_1_is_white() -> None:
    grey = Image.fromarray(np.array([[0, 0.5, 1.0001]], np.float32))
    assert np.asarray(decode(encoded(grey, "TIFF")))[0, :, 0].tolist() == [0, 128, 255]


def test_the_first_frame_of_an_animation(photo: Image.Image) -> None:
    content = encoded(photo, "WEBP", save_all=True, append_images=[Image.new("RGB", photo.size)], lossless=True)
    np.testing.assert_array_equal(np.asarray(decode(content)), np.asarray(photo))
    assert Image.open(io.BytesIO(stored_form(content))).format == "PNG"


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda c: b"", "empty"),
        (lambda c: b"not an image at all", "not an image"),
        (lambda c: c[: len(c) // 2], "decode|truncated"),
    ],
)
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_what_is_unreadable_says_why(photo: Image.Image, kind: str, spoil: object, reason: str) -> None:
    bad = spoil(encoded(photo.resize((64, 64)), kind))  # type: ignore[operator]
    for function in (decode, stored_form):
        with pytest.raises(ValueError, match=reason):
            function(bad)


def test_too_many_pixels_are_refused_before_they_are_decoded(
    photo: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "MAX_PIXELS", 53)
    with pytest.raises(ValueError, match="pixels"):
        decode(encoded(photo, "PNG"))
    monkeypatch.setattr(images, "MAX_PIXELS", 54)
    decode(encoded(photo, "PNG"))
