"""Formats of images that are read, told apart by the first bytes of a file; its name does not matter.

Pillow knows more formats, some of which start programs (EPS) or have no mark of their own (TGA).
"""

import importlib
import re
from functools import cache
from pathlib import PurePosixPath

from PIL import Image

PILLOW = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "JPEG2000", "PPM")
"""Formats that Pillow itself reads."""
PLUGINS = {"HEIF": "pillow-heif", "JXL": "pillow-jxl-plugin"}
"""Formats that a plugin of Pillow reads, and its package."""
HEAD = 4096
"""Bytes at the beginning of a file that tell what it is."""

_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_JXL_MARKS = (b"\xff\x0a", b"\x00\x00\x00\x0cJXL \r\n\x87\n")
_PLAIN_PPM = re.compile(rb"P[123]\s(?:\s|#[^\n]*\n)*\d+\s(?:\s|#[^\n]*\n)*\d+\s")
_OTHER_IMAGES = {
    *(".heic", ".heif", ".hif", ".jxl", ".svg"),
    *(".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2"),
}
"""Suffixes of images that Pillow does not register."""

_OTHERS = (
    ("a Parquet file", 0, b"PAR1"),
    ("a zip archive", 0, b"PK\x03\x04"),
    ("a tar archive", 257, b"ustar"),
    ("a 7z archive", 0, b"7z\xbc\xaf\x27\x1c"),
    ("a RAR archive", 0, b"Rar!"),
    ("a file packed by gzip", 0, b"\x1f\x8b"),
    ("a file packed by zstd", 0, b"\x28\xb5\x2f\xfd"),
    ("an HDF5 file", 0, b"\x89HDF"),
    ("a NumPy file", 0, b"\x93NUMPY"),
    ("a PDF file", 0, b"%PDF"),
    ("an Arrow file", 0, b"ARROW1"),
    ("a pickle", 0, b"\x80\x04"),
)
"""Other files: what, where their mark is, and the mark."""


@cache
def _prepared() -> frozenset[str]:
    """Load Pillow's plugins; the suffixes of every format of images that Pillow or people know."""
    Image.init()
    return frozenset(Image.registered_extensions()) | _OTHER_IMAGES


def format_of(head: bytes) -> str:
    """The format of an image that begins with these bytes; "" if it is none that is read."""
    _prepared()
    if head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS and b"avif" not in head[12:32]:
        return "HEIF"
    if head.startswith(_JXL_MARKS):
        return "JXL"
    for name in PILLOW:
        accepts = Image.OPEN[name][1]
        if accepts and accepts(head[:16]):
            return name if not is_text(head) or _PLAIN_PPM.match(head) else ""
    return ""


def is_named_as_image(name: str) -> bool:
    """Whether a file's name claims that it is an image, so that another content is a fault."""
    return PurePosixPath(name).suffix.lower() in _prepared()


def is_text(head: bytes) -> bool:
    """Whether a file that begins with these bytes is text, in UTF-8 or UTF-16."""
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return True
    if re.search(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]", head):
        return False
    try:
        head.decode()
    except UnicodeDecodeError as error:
        return error.start > 0 and error.start >= len(head) - 3 and len(head) >= HEAD  # the cut may split a character
    return True


@cache
def register(name: str) -> None:
    """Make Pillow read the format.

    Raises:
        ValueError: its plugin is not installed.
    """
    if name not in PLUGINS:
        return
    try:
        plugin = importlib.import_module({"HEIF": "pillow_heif", "JXL": "pillow_jxl"}[name])
    except ImportError as error:
        raise ValueError(
            f"it is a {name} image, which needs the package {PLUGINS[name]}: install or convert"
        ) from error
    if name == "HEIF":
        plugin.register_heif_opener()


def kind_of(head: bytes) -> str:
    """Kind of a file that begins with these bytes, in words."""
    start = head.lstrip()[:100].lower()
    if name := format_of(head):
        return f"one image ({name})"
    if start.startswith((b"<!doctype html", b"<html")):
        return "a web page"
    for kind, at, mark in _OTHERS:
        if head[at:].startswith(mark):
            return kind
    return "an empty file" if not head else "a text file" if is_text(head) else "a file of an unknown kind"
