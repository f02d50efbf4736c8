"""Decoding of one image file, of any mode, to RGB pixels."""

import io
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from mofe.data.formats import HEAD, format_of, register
from mofe.data.jxl import jxl_size

MAX_PIXELS = 100_000_000
"""Largest number of pixels (300 MB, more than any camera makes); a larger image is refused before it is decoded."""
MAX_ASPECT_RATIO = 100
"""Largest ratio of an image's sides. Resizing the shorter side to the model's size would make a longer image huge."""

_KEPT_FORMATS = ("JPEG", "PNG", "WEBP")
_ORIENTATION = 0x0112
_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT, _WHITE_LEVEL = 258, 262, 339, 50717
_TIFF_DEFAULTS = {_SAMPLE_FORMAT: 1, _BITS: 1}
SLACK = 1.01
"""By how much a pixel may exceed white; resizing can make white a little more than 1."""


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert to upright RGB: EXIF rotation applied, transparency over white, deep greys in 8 bits, first frame."""
    saved = image
    if not _is_upright(image):
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        image = _eight_bit(image, saved)
    elif (white := _named_white(saved)) and white < (deepest := 2 ** (_tag(saved, _BITS) or 8) - 1):
        raise ValueError(
            f"its white is {white:g} of {deepest:,}, which is only read from grey images: scale it to 8 bits"
        )
    if image.has_transparency_data:
        image = image.convert("RGBA")
        paper = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(paper, image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _is_upright(image: Image.Image) -> bool:
    return image.getexif().get(_ORIENTATION, 1) == 1


def _eight_bit(image: Image.Image, saved: Image.Image) -> Image.Image:
    """Scale a 16- or 32-bit grey image to 8 bits, because Pillow's own conversion clips it.

    Args:
        image: the upright image.
        saved: the image as its file was opened.

    Raises:
        ValueError: the white of the image is unknown, or a pixel is beyond it.
    """
    values = np.asarray(image, np.float64)
    if not np.isfinite(values).all():
        raise ValueError("it has pixels that are not finite")
    white = _white(saved)
    low, high = values.min(initial=0), values.max(initial=0)
    if low < 0 or high > white * SLACK:
        raise ValueError(
            f"its pixels reach from {low:g} to {high:g}, but should lie between 0 and {white:g}: scale them, or save "
            "the image with 8 bits"
        )
    if saved.format == "TIFF" and _tag(saved, _PHOTOMETRIC) == 0:  # white is 0, which Pillow leaves so for deep pixels
        values = white - values
    return Image.fromarray(np.clip(np.rint(values * (255 / white)), 0, 255).astype(np.uint8))


def _white(image: Image.Image) -> float:
    """The value of white in a deep grey image, by its number of bits, or by a tag that names it.

    Floats are taken from 0 to 1, as libraries write them.

    Raises:
        ValueError: neither is known.
    """
    if white := _named_white(image):
        return white
    if image.mode == "F":
        return 1.0
    if image.format == "TIFF" and _tag(image, _SAMPLE_FORMAT) == 1:
        bits = _tag(image, _BITS)
        if bits is not None and bits < 32:  # Pillow reads 32 bits as signed
            return float(2**bits - 1)
    elif image.mode.startswith("I;16") or image.format in ("PNG", "PPM"):
        return 65535.0
    raise ValueError(
        f"it has whole numbers of mode {image.mode} whose white is unknown: save it with 8 bits, or with 16 bits "
        "without sign"
    )


def _named_white(image: Image.Image) -> float | None:
    """The value of white that a tag of a TIFF names."""
    white = _tag(image, _WHITE_LEVEL) if image.format == "TIFF" else None  # MaxSampleValue is a statistic, says TIFF 6
    return float(white) if white else None


def _tag(image: Image.Image, tag: int) -> Any:
    """The first value of a TIFF tag; None if the file lacks it."""
    value = getattr(image, "tag_v2", {}).get(tag, _TIFF_DEFAULTS.get(tag))
    return value[0] if isinstance(value, tuple) else value


def _open(content: bytes) -> Image.Image:
    """Load the image as it was saved, within :data:`MAX_PIXELS` and :data:`MAX_ASPECT_RATIO`.

    Raises:
        ValueError: as for :func:`decode`.
    """
    if not content:
        raise ValueError("the file is empty")
    if not (kind := format_of(content[:HEAD])):
        raise ValueError("it is not an image that can be read")
    register(kind)
    if kind == "JXL" and (reason := _size_fault(*jxl_size(content))):
        raise ValueError(reason)
    try:
        image = Image.open(io.BytesIO(content), formats=[kind])
        if not (reason := _shape_fault(image)):
            image.load()
            return image
    except UnidentifiedImageError as error:
        raise ValueError("it is not an image that can be read") from error
    except Image.DecompressionBombError as error:
        raise ValueError(f"it has more than {MAX_PIXELS:,} pixels") from error
    except Exception as error:  # a damaged file makes Pillow's decoders raise nearly anything
        raise ValueError(f"it does not decode: {error}") from error
    raise ValueError(reason)


def measured(image: Image.Image) -> Image.Image:
    """Return an image in memory unchanged, if its size is allowed.

    Raises:
        ValueError: the image has no pixels, more than :data:`MAX_PIXELS`, or a ratio above :data:`MAX_ASPECT_RATIO`.
    """
    if reason := _shape_fault(image):
        raise ValueError(reason)
    return image


def _shape_fault(image: Image.Image) -> str:
    return _size_fault(*image.size)


def _size_fault(width: int, height: int) -> str:
    if not min(width, height):
        return "it has no pixels"
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        return f"it is {width} × {height} pixels: one side is over {MAX_ASPECT_RATIO} times the other"
    if width * height > MAX_PIXELS:
        return f"it is {width} × {height} pixels, more than {MAX_PIXELS:,}"
    return ""


def decode(content: bytes) -> Image.Image:
    """Decode an image file to RGB.

    Raises:
        ValueError: the bytes are not a usable image; the message is a short reason (empty, not an image, truncated,
            too large).
    """
    return _convert(_open(content))


def _convert(image: Image.Image) -> Image.Image:
    try:
        return to_rgb(image)
    except Exception as error:  # metadata can be damaged like pixels
        raise ValueError(f"it does not convert to RGB: {error}") from error


def stored_form(content: bytes) -> bytes:
    """The bytes that a shard stores for an image file: the file's own if every decoder gives its RGB, else PNG.

    Raises:
        ValueError: as for :func:`decode`.
    """
    image = _open(content)
    if _is_plain(image):
        return content
    encoded = io.BytesIO()
    _convert(image).save(encoded, "PNG")
    return encoded.getvalue()


def _is_plain(image: Image.Image) -> bool:
    """Whether every decoder gives the same RGB pixels for the file."""
    if image.mode != "RGB" or image.format not in _KEPT_FORMATS or image.has_transparency_data:
        return False
    try:
        return getattr(image, "n_frames", 1) == 1 and _is_upright(image)
    except Exception as error:
        raise ValueError(f"its metadata cannot be read: {error}") from error
