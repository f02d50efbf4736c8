"""Recognises files that cannot hold weights by their first bytes and their size, before any work."""

import json
import struct
import zipfile

from upath import UPath

from mofe.errors import MofeError
from mofe.storage import locations

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
"""Suffixes of files of weights: safetensors, and what ``torch.save`` writes."""
LFS_POINTER = b"version https://git-lfs.github.com/"
"""First bytes of the text that Git keeps in the place of a large file."""
PAGES = (b"<!doctype", b"<html", b"<?xml")
"""First bytes of what a server sends in place of a file: a page to log in, an error."""
HEAD = 1 << 10
"""Bytes that show what a file is."""


def check_weights_file(path: UPath) -> None:
    """Refuse a file that holds no weights: an LFS pointer, a page, a truncated file, or the wrong format.

    Args:
        path: path or URI of the file; only its beginning, and the end of a zip archive, are read.

    Raises:
        MofeError: there is no such file, its suffix is not in :data:`SUFFIXES`, or its content is something else.
    """
    if path.suffix not in SUFFIXES:
        raise MofeError(f"weights {path}: expected a .safetensors file, or a .pth, .pt or .bin of plain tensors")
    if locations.kind(path) != "file":
        raise MofeError(f"there is no weights file at {path}")
    with locations.reading(path, "weights file") as file:
        head = file.read(HEAD)
    if wrong := _mistaken(head):
        raise MofeError(f"the weights {path} {wrong}")
    if path.suffix == ".safetensors":
        _check_safetensors(path, head)
    elif _header_size(head) is not None:
        raise MofeError(f"the weights {path} are a safetensors file: rename it to {path.stem}.safetensors")
    elif head.startswith(b"PK\x03\x04"):
        with locations.reading(path, "weights file") as file:
            if not zipfile.is_zipfile(file):
                raise MofeError(f"the weights {path} are truncated: their end is missing; copy or download them again")


def _mistaken(head: bytes) -> str:
    """Kind of a file with these first bytes that cannot hold weights; "" if it can."""
    if not head:
        return "are an empty file: copy or download them again"
    if head.startswith(LFS_POINTER):
        return "are a Git LFS pointer, not the file itself: run git lfs pull where it was cloned, or download the file"
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(PAGES):
        return "are an HTML or XML page, which a server sent in place of the file: download it by its direct address"
    return ""


def _header_size(head: bytes) -> int | None:
    """Bytes of a safetensors header, which is JSON after its own length; None if the file is of another format."""
    if len(head) < 9 or head[8:9] != b"{":
        return None
    return int(struct.unpack("<Q", head[:8])[0])


def _check_safetensors(path: UPath, head: bytes) -> None:
    """Compare the size of the file with where its header says that the last tensor ends."""
    if head.startswith((b"PK\x03\x04", b"\x80\x02")):
        raise MofeError(f"the weights {path} are a file of torch.save: rename it to {path.stem}.pth")
    size, header = int(locations.file_system(path).info(path.path)["size"]), _header_size(head)
    if header is None:
        raise MofeError(f"the weights {path} are not a safetensors file: convert them, or download them again")
    if size >= 8 + header:
        with locations.reading(path, "weights file") as file:
            file.seek(8)
            text = file.read(header)
        try:
            tensors = [entry["data_offsets"][1] for name, entry in json.loads(text).items() if name != "__metadata__"]
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise MofeError(f"the weights {path} are damaged: their header is not readable") from error
        expected = 8 + header + max(tensors, default=0)
    if size < 8 + header or size < expected:
        whole = "" if size < 8 + header else f" of {expected}"
        raise MofeError(f"the weights {path} are truncated after {size} bytes{whole}: copy or download them again")
