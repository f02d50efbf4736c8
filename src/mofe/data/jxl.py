"""The size of a JPEG XL image by its header, because the plugin decodes the whole image as it opens it."""

import struct

CODESTREAM = b"\xff\x0a"
_RATIOS = (0, 1, 12 / 10, 4 / 3, 3 / 2, 16 / 9, 5 / 4, 2)
"""Width over height by the header's number; 0 if the width is written out."""


def jxl_size(content: bytes) -> tuple[int, int]:
    """Width and height that a JPEG XL file gives (ISO/IEC 18181-1, SizeHeader).

    Raises:
        ValueError: the file has no such header.
    """
    stream = content if content.startswith(CODESTREAM) else _codestream(content)
    if not stream.startswith(CODESTREAM):
        raise ValueError("it has no header of JPEG XL")
    bits = _Bits(int.from_bytes(stream[2:14], "little"))
    small = bits.take(1)
    height = _side(bits, small)
    ratio = _RATIOS[bits.take(3)]
    return (int(height * ratio) if ratio else _side(bits, small)), height


class _Bits:
    """Bits of a header, the lowest of each byte first."""

    def __init__(self, left: int):
        self.left = left

    def take(self, count: int) -> int:
        found = self.left & ((1 << count) - 1)
        self.left >>= count
        return found


def _side(bits: _Bits, small: int) -> int:
    return 8 * (1 + bits.take(5)) if small else 1 + bits.take((9, 13, 18, 30)[bits.take(2)])


def _codestream(content: bytes) -> bytes:
    """The beginning of the image in a container of boxes."""
    at = 0
    while at + 16 <= len(content):
        size, kind = struct.unpack_from(">I4s", content, at)
        head = 16 if size == 1 else 8
        size = struct.unpack_from(">Q", content, at + 8)[0] if size == 1 else size
        if kind in (b"jxlc", b"jxlp"):
            start = at + head + (4 if kind == b"jxlp" else 0)
            return content[start : start + 64]
        if size < head:
            break
        at += size
    return b""
