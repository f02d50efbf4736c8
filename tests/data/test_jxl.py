"""The size of JPEG XL images by their header, against the plugin's, and headers that ask for too much."""

import io

import numpy as np
import pytest
from PIL import Image

from mofe.data.images import decode
from mofe.data.jxl import jxl_size

pytest.importorskip("pillow_jxl", reason="under the GPL, so it is not required")
SIZES = [
    (8, 8),
    (64, 48),
    (48, 64),
    (120, 100),
    (160, 90),
    (50, 40),
    (40, 20),
    (33, 7),
    (1, 1),
    (600, 520),
    (9000, 100),
]


def encoded(size: tuple[int, int], **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.zeros((size[1], size[0], 3), np.uint8)).save(stream, "JXL", **options)
    return stream.getvalue()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("use_container", [False, True])
def test_the_header_tells_the_size(size: tuple[int, int], use_container: bool) -> None:
    assert jxl_size(encoded(size, use_container=use_container)) == size


def test_a_header_of_too_many_pixels_is_refused_before_anything_is_decoded() -> None:
    bits = 0 | 3 << 1 | (39_999 << 3) | 1 << 33  # not small, 30 bits, the height less 1, as wide as high
    huge = b"\xff\x0a" + bits.to_bytes(12, "little")
    assert jxl_size(huge) == (40_000, 40_000)
    with pytest.raises(ValueError, match="40000 × 40000 pixels, more than"):
        decode(huge)


@pytest.mark.parametrize("content", [b"\x00\x00\x00\x0cJXL \r\n\x87\n", b"\x00\x00\x00\x0cJXL \r\n\x87\n" + bytes(40)])
def test_a_container_without_an_image(content: bytes) -> None:
    with pytest.raises(ValueError, match="no header of JPEG XL"):
        jxl_size(content)
