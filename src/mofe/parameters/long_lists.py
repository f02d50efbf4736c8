"""Lists that are too long to be an argument of a process: they travel as a file."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mofe.errors import MofeError
from mofe.storage import locations, writing

LONGEST = 64_000
"""Bytes of JSON that a parameter may have: Linux allows 131 072 for one argument, which also holds the other inputs."""


def write_long_lists(parameters: Mapping[str, Any], folder: Path | None) -> dict[str, Any]:
    """Put ``images``, if it is too long for an argument, into a file of the work folder that takes its place.

    Args:
        parameters: of a pipeline, by name.
        folder: where to write the list; None where the pipeline runs elsewhere.

    Raises:
        MofeError: another parameter is too long, or ``images`` is and the pipeline runs elsewhere.
    """
    short = dict(parameters)
    for name, value in parameters.items():
        size = len(json.dumps(value))
        if size <= LONGEST:
            continue
        if name != "images" or folder is None:
            hint = "give the URI of a .txt file with a place a line" if name == "images" else "shorten it"
            raise MofeError(f"{name} has {size:,} bytes, more than the {LONGEST:,} that a parameter may have: {hint}")
        content = "".join(f"{place}\n" for place in value).encode()
        file = folder.resolve() / f"images-{hashlib.sha256(content).hexdigest()[:16]}.txt"
        writing.write_bytes(locations.resolve(file), content)
        short[name] = [str(file)]
    return short
