"""Decoding of one image file, of any mode, to RGB pixels."""

import io

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from mofe.data.formats import HEAD, format_of, register

MAX_PIXELS = 100_000_000
"""Largest number of pixels (300 MB, more than any camera makes); a larger image is refused before it is decoded."""
MAX_ASPECT_RATIO = 100
"""Largest ratio of an image's sides. Resizing the shorter side to the model's size would make a longer image huge."""

_KEPT_FORMATS = ("JPEG", "PNG", "WEBP")
_ORIENTATION = 0x0112


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert to upright RGB: EXIF rotation applied, transparency over white, deep greys in 8 bits, first frame."""
    if not _is_upright(image):
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        image = _eight_bit(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        paper = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(paper, image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _is_upright(image: Image.Image) -> bool:
    return image.getexif().get(_ORIENTATION, 1) == 1


def _eight_bit(image: Image.Image) -> Image.Image:
    """Scale a 16- or 32-bit grey image to 8 bits, because Pillow's own conversion clips it."""
    values = np.asarray(image, np.float64)
    if not np.isfinite(values).all():
        raise ValueError("it has pixels that are not finite")
    if image.mode == "F":
        top = 1.0 if values.max(initial=0) <= 1.01 else 255.0  # resizing can make white a little more than 1
    else:
        top = 65535.0 if values.max(initial=0) <= 65535 else 2.0**31 - 1
    return Image.fromarray(np.clip(np.rint(values * (255 / top)), 0, 255).astype(np.uint8))


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
    if not min(image.size):
        return "it has no pixels"
    if max(image.size) > MAX_ASPECT_RATIO * min(image.size):
        return f"it is {image.width} × {image.height} pixels: one side is over {MAX_ASPECT_RATIO} times the other"
    if image.width * image.height > MAX_PIXELS:
        return f"it is {image.width} × {image.height} pixels, more than {MAX_PIXELS:,}"
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
