"""A file's pixels by the short way, against Pillow's."""

import io

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from mofe.data import pixels
from mofe.data.images import decode, stored_form
from mofe.data.pixels import decode_pixels

PHOTOGRAPHS = [Image.fromarray(photo) for photo in load_sample_images().images]


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def turned(image: Image.Image) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(image, "JPEG", exif=exif)


KINDS = {
    "photograph": encoded(PHOTOGRAPHS[0], "JPEG", quality=90),
    "progressive": encoded(PHOTOGRAPHS[1], "JPEG", quality=60, progressive=True),
    "odd size": encoded(PHOTOGRAPHS[0].resize((33, 17)), "JPEG", subsampling="4:2:0"),
    "all colours": encoded(PHOTOGRAPHS[1], "JPEG", quality=95, subsampling="4:4:4"),
    "without its end": encoded(PHOTOGRAPHS[0], "JPEG", quality=90)[:-2] + b"\0\0",
    "turned by EXIF": turned(PHOTOGRAPHS[0]),
    "grey": encoded(PHOTOGRAPHS[0].convert("L"), "JPEG"),
    "CMYK": encoded(PHOTOGRAPHS[0].convert("CMYK"), "JPEG"),
    "PNG": encoded(PHOTOGRAPHS[0].convert("RGBA"), "PNG"),
    "WebP": encoded(PHOTOGRAPHS[0], "WEBP"),
}


@pytest.mark.parametrize("content", KINDS.values(), ids=KINDS)
def test_they_are_pillows(content: bytes) -> None:
    found = decode_pixels(stored_form(content))
    np.testing.assert_array_equal(found.permute(1, 2, 0), np.asarray(decode(content)))


def test_a_plain_jpeg_takes_the_short_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixels, "decode", lambda _: pytest.fail("Pillow was asked"))
    decode_pixels(KINDS["photograph"])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"no image", "not an image"),
        (KINDS["photograph"][:-9000], "does not decode"),
        (KINDS["photograph"][:300], "does not decode|not an image"),
        (KINDS["PNG"][:300], "does not decode"),
    ],
)
def test_what_is_no_image_is_said(content: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        decode_pixels(content)
