"""One image: from a file's bytes, in whatever mode it was saved, to RGB pixels."""

import io

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

MOST_PIXELS = 100_000_000
"""A larger image is refused before it is decoded: 300 MB of pixels, more than any camera makes."""
MOST_SLENDER = 100
"""An image that is so many times as long as it is wide is refused: its shorter side is brought to a model's size."""

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
"""What is read, whatever a file is called; Pillow knows others, some of which start programs (EPS)."""
_KEPT_FORMATS = ("JPEG", "PNG", "WEBP")
_ORIENTATION = 0x0112


def to_rgb(image: Image.Image) -> Image.Image:
    """Upright RGB: EXIF rotation applied, transparency laid over white, deep greys scaled to 8 bits, first frame."""
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
    """A 16- or 32-bit grey image with its range scaled; Pillow's own conversion clips it."""
    values = np.asarray(image, np.float64)
    if not np.isfinite(values).all():
        raise ValueError("it has pixels that are not finite")
    if image.mode == "F":
        top = 1.0 if values.max(initial=0) <= 1.01 else 255.0  # a little beyond 1 is what resizing makes of white
    else:
        top = 65535.0 if values.max(initial=0) <= 65535 else 2.0**31 - 1
    return Image.fromarray(np.clip(np.rint(values * (255 / top)), 0, 255).astype(np.uint8))


def _opened(content: bytes) -> Image.Image:
    """The image as it was saved, within :data:`MOST_PIXELS` and :data:`MOST_SLENDER`.

    Raises:
        ValueError: as :func:`decode`.
    """
    if not content:
        raise ValueError("the file is empty")
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
        if not (reason := _misshapen(image)):
            image.load()
            return image
    except UnidentifiedImageError as error:
        raise ValueError("it is not an image that can be read") from error
    except Image.DecompressionBombError as error:
        raise ValueError(f"it has more than {MOST_PIXELS:,} pixels") from error
    except Exception as error:  # a damaged file makes Pillow's decoders raise nearly anything
        raise ValueError(f"it does not decode: {error}") from error
    raise ValueError(reason)


def measured(image: Image.Image) -> Image.Image:
    """An image that is in memory, as it is.

    Raises:
        ValueError: it has no pixels, more than :data:`MOST_PIXELS`, or is beyond :data:`MOST_SLENDER`.
    """
    if reason := _misshapen(image):
        raise ValueError(reason)
    return image


def _misshapen(image: Image.Image) -> str:
    if not min(image.size):
        return "it has no pixels"
    if max(image.size) > MOST_SLENDER * min(image.size):
        return f"of {image.width} × {image.height} pixels one side is over {MOST_SLENDER} times the other"
    if image.width * image.height > MOST_PIXELS:
        return f"{image.width} × {image.height} pixels are more than {MOST_PIXELS:,}"
    return ""


def decode(content: bytes) -> Image.Image:
    """The pixels of an image file, RGB.

    Raises:
        ValueError: a short reason why the bytes are no usable image (empty, not an image, truncated, too large).
    """
    return _converted(_opened(content))


def _converted(image: Image.Image) -> Image.Image:
    try:
        return to_rgb(image)
    except Exception as error:  # metadata can be as damaged as pixels
        raise ValueError(f"it does not convert to RGB: {error}") from error


def stored_form(content: bytes) -> bytes:
    """What a shard holds of an image file: the bytes themselves if they decode to RGB as they are, else lossless PNG.

    Raises:
        ValueError: as :func:`decode`.
    """
    image = _opened(content)
    if _is_plain(image):
        return content
    encoded = io.BytesIO()
    _converted(image).save(encoded, "PNG")
    return encoded.getvalue()


def _is_plain(image: Image.Image) -> bool:
    """Whether every decoder makes the same RGB pixels of the file."""
    if image.mode != "RGB" or image.format not in _KEPT_FORMATS or image.has_transparency_data:
        return False
    try:
        return getattr(image, "n_frames", 1) == 1 and _is_upright(image)
    except Exception as error:
        raise ValueError(f"its metadata cannot be read: {error}") from error
