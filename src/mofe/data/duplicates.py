"""Images that are there more than once: the same file, or the same picture saved, scaled or compressed in another way.

The same picture has a perceptual hash (imagehash's ``phash`` of 256 bits) that differs in few bits. The hash sees no
colours, and an even picture has no hash to speak of. So the colours of a grid of 8 × 8 must be close as well. On 3000
photographs of Tiny-ImageNet, JPEG at quality 60 and scaling change at most 14 bits and a grid by 3.3 grey levels;
different pictures differ in more than 40 bits.
"""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import faiss
import imagehash
import numpy as np
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from mofe.data.formats import HEAD, format_of
from mofe.data.images import decode

SIDE = 16
"""Side of the hash: 16 × 16 bits."""
BITS = 16
"""Largest number of bits by which the hashes of one picture differ."""
COLOURS = 5.0
"""Largest root mean square difference of two grids of one picture, in levels of 255."""
BLOCK = 4096
"""Number of images whose neighbours are searched at once."""


class Looks(NamedTuple):
    """Properties that identify an image."""

    digest: bytes
    """SHA-256 of the file."""
    hash_V: np.ndarray
    """Perceptual hash, 32 bytes."""
    grid_G: np.ndarray
    """Mean colours of 8 × 8 parts, 192 bytes."""
    size: tuple[int, int]
    """Width and height in pixels, upright."""
    format: str
    """Format of the file, such as JPEG."""


def looks_of(content: bytes) -> Looks:
    """Examine an image file.

    Raises:
        ValueError: the bytes are not a usable image; see :func:`mofe.data.images.decode`.
    """
    image = decode(content)
    bits = imagehash.phash(image, hash_size=SIDE).hash
    grid = np.asarray(image.resize((8, 8), Image.Resampling.BOX))
    return Looks(
        hashlib.sha256(content).digest(), np.packbits(bits.ravel()), grid.ravel(), image.size, format_of(content[:HEAD])
    )


def same_pictures(looks: Sequence[Looks]) -> np.ndarray:
    """Number of the picture that each of N images shows, (N,): equal for copies, and copies of copies."""
    if not looks:
        return np.zeros(0, int)
    hash_NV = np.stack([look.hash_V for look in looks])
    grid_NG = np.stack([look.grid_G for look in looks])
    index = faiss.IndexBinaryFlat(8 * hash_NV.shape[1])
    index.add(hash_NV)
    pairs = [_pairs_of(index, hash_NV, grid_NG, start) for start in range(0, len(looks), BLOCK)]
    first_P, second_P = np.hstack(pairs)
    graph = coo_array((np.ones(len(first_P), bool), (first_P, second_P)), shape=(len(looks), len(looks)))
    return np.asarray(connected_components(graph, directed=False)[1], int)


def _pairs_of(index: faiss.IndexBinaryFlat, hash_NV: np.ndarray, grid_NG: np.ndarray, start: int) -> np.ndarray:
    """Pairs (2, P) of images of one picture, the first of each in the block that begins at ``start``."""
    limits, _, second_P = index.range_search(hash_NV[start : start + BLOCK], BITS + 1)
    found_B: np.ndarray = np.diff(limits.astype(np.int64))
    first_P = start + np.repeat(np.arange(len(found_B)), found_B)
    apart_PG = grid_NG[first_P].astype(np.float32) - grid_NG[second_P]
    close_P = np.square(apart_PG).mean(axis=1) <= COLOURS**2
    return np.stack([first_P, second_P])[:, close_P]
