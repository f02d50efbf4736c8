"""Names of files that are made from what somebody named: a data set, a configuration."""

import hashlib
import re

LONGEST = 100
"""Bytes of such a name; file systems allow 255 for a whole name, of which this is a part."""


def file_name(text: str, unsafe: str = r"[/\x00-\x1f]") -> str:
    """The text as a part of a file's name: unsafe characters replaced, and a long one cut and told apart by a digest.

    Args:
        text: any text.
        unsafe: pattern of the characters that become ``_``.
    """
    name = re.sub(unsafe, "_", text)
    content = name.encode(errors="surrogateescape")
    if len(content) <= LONGEST:
        return name
    digest = hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:12]
    return f"{content[: LONGEST - 13].decode(errors='ignore')}-{digest}"
