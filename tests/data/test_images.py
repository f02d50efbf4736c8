"""One image of every odd kind, against pixels computed by hand."""

import io

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from mofe.data import images
from mofe.data.formats import register
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


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "CMYK", "YCbCr"])
def test_every_mode_becomes_rgb(photo: Image.Image, mode: str) -> None:
    assert to_rgb(photo.convert(mode)).mode == "RGB"


def tiff(pixels: list[float], kind: type, **tags: object) -> bytes:
    """A grey TIFF of one row, with tags by number."""
    directory = TiffImagePlugin.ImageFileDirectory_v2()
    for number, value in tags.items():
        directory[int(number.removeprefix("tag"))] = value
    return encoded(Image.fromarray(np.array([pixels], kind)), "TIFF", tiffinfo=directory)


WHITE_IS_ZERO, MAX_SAMPLE, WHITE_LEVEL = "tag262", "tag281", "tag50717"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (tiff([0, 32768, 65535], np.uint16), [0, 128, 255]),
        (tiff([0, 2048, 4095], np.uint16), [0, 8, 16]),
        (tiff([0, 2048, 4095], np.uint16, **{MAX_SAMPLE: 4095}), [0, 8, 16]),  # "not to be used" for display: TIFF 6.0
        (tiff([0, 2048, 4095], np.uint16, **{WHITE_LEVEL: 4095}), [0, 128, 255]),
        (tiff([0, 32768, 65535], np.uint16, **{WHITE_IS_ZERO: 0}), [255, 127, 0]),
        (tiff([0, 0.5, 1], np.float32), [0, 128, 255]),
        (tiff([0, 0.5, 1.0001], np.float32), [0, 128, 255]),
        (tiff([0, 128, 255], np.float32, **{WHITE_LEVEL: 255}), [0, 128, 255]),
        (b"P5 3 1 4095\n" + np.array([0, 2048, 4095], ">u2").tobytes(), [0, 128, 255]),
        (b"Pf\n3 1\n-1.0\n" + np.array([0, 0.5, 1], "<f4").tobytes(), [0, 128, 255]),
    ],
)
def test_deep_greys_are_scaled_by_what_the_file_says(content: bytes, expected: list[int]) -> None:
    """By its bits, or by the white that a tag names; floats lie between 0 and 1."""
    assert np.asarray(decode(content))[0, :, 0].tolist() == expected


def test_a_deep_grey_that_is_turned_is_scaled_alike() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded(Image.fromarray(np.array([[0, 32768, 65535]], np.uint16)), "PNG", exif=exif)
    assert np.asarray(decode(turned))[:, 0, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (tiff([0, 128, 255], np.float32), "pixels reach from 0 to 255, but should lie between 0 and 1"),
        (tiff([-0.5, 1], np.float32), "pixels reach from -0.5 to 1"),
        (tiff([0, 128, 255], np.int32), "white is unknown: save it with 8 bits"),
        (tiff([0, 5000], np.uint16, **{WHITE_LEVEL: 4095}), "pixels reach from 0 to 5000.*0 and 4095"),
    ],
)
def test_a_deep_grey_whose_white_is_unknown_says_what_to_do(content: bytes, reason: str) -> None:
    for function in (decode, stored_form):
        with pytest.raises(ValueError, match=reason):
            function(content)


@pytest.mark.parametrize("kind", ["AVIF", "HEIF", "JPEG2000", "PPM", "JXL"])
def test_formats_of_phones_cameras_and_plugins(photo: Image.Image, kind: str) -> None:
    """Told apart by content; a codec changes pixels a little, a lossless form does not."""
    if kind == "JXL":
        pytest.importorskip("pillow_jxl", reason="under the GPL, so it is not required")
    register(kind)
    large = photo.resize((64, 48))
    options = {"JXL": {"lossless": True}, "AVIF": {"quality": 95}, "HEIF": {"quality": 95}}
    found = decode(encoded(large, kind, **options.get(kind, {})))
    assert found.size == (64, 48)
    lost = np.abs(np.asarray(found, float) - np.asarray(large, float)).mean()
    assert lost <= (0 if kind in ("JPEG2000", "PPM", "JXL") else 12)
    assert Image.open(io.BytesIO(stored_form(encoded(large, kind)))).format == "PNG"


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
