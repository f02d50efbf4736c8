"""Computes a digest of the files that the images and the detector of a batch have now."""

import hashlib

from mofe.data.place_lists import listed_places
from mofe.data.places import has_wildcard
from mofe.errors import MofeError
from mofe.storage import locations


def fingerprint_batch(images: list[str], detector: str) -> str:
    """Turn paths and URIs into one digest of the names, sizes and versions of their files, not of the content.

    The pipeline never caches this stage. The next stage takes its result as a parameter, so the batch runs again
    exactly when images or detector have changed.

    Args:
        images: files, folders, globs, tar archives, Parquet files; local paths or URIs; or .txt files that list such
            places, one per line.
        detector: folder that index wrote (path or URI).

    Raises:
        MofeError: there are no images.
    """
    if not images:
        raise MofeError("images is empty: name files, folders, globs, archives or URIs")
    parts = [locations.digest_of_listing(detector)]
    for place in listed_places(images):
        path = locations.resolve(place)
        found = locations.glob(path) if not locations.kind(path) and has_wildcard(str(place)) else [path]
        if not found:
            raise MofeError(f"no file matches {place}: check the pattern in images")
        parts += [f"{file} {locations.digest_of_listing(file)}" for file in found]
    return hashlib.sha256("\n".join(parts).encode(errors="surrogateescape")).hexdigest()[:16]
