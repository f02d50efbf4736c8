"""What lies behind the images and the detector of a batch right now."""

import hashlib

from mofe.data.places import has_wildcard
from mofe.errors import MofeError
from mofe.storage import locations


def fingerprint_batch(images: list[str], detector: str) -> str:
    """Turn places into a digest of what lies there: names, sizes and versions of the files, not their content.

    In the pipeline this stage is never cached. Its result is a parameter of what comes next, so the batch runs again
    exactly when images or detector have changed.

    Args:
        images: files, folders, globs, tar archives, Parquet files; local paths or URIs.
        detector: the folder that index wrote (path or URI).
    """
    if not images:
        raise MofeError("images is empty: name files, folders, globs, archives or URIs")
    parts = [locations.digest_of_listing(detector)]
    for place in images:
        path = locations.resolve(place)
        found = locations.glob(path) if not locations.kind(path) and has_wildcard(place) else [path]
        if not found:
            raise MofeError(f"nothing matches {place}")
        parts += [f"{file} {locations.digest_of_listing(file)}" for file in found]
    return hashlib.sha256("\n".join(parts).encode(errors="surrogateescape")).hexdigest()[:16]
