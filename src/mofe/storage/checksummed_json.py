"""JSON with its own checksum: the last line is the SHA-256 of all other bytes."""

import hashlib
import json
import re
from typing import Any


def as_json(content: Any) -> bytes:
    """Encode as indented JSON; NaN and infinity are refused."""
    return (json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


_NAME, _END = "sha256", b'"\n}\n'


def with_checksum(content: dict[str, Any]) -> bytes:
    """Encode as JSON whose last line is the SHA-256 of all other bytes; :func:`verify` reads it."""
    blank = as_json({**content, _NAME: ""})
    digest = hashlib.sha256(blank).hexdigest()
    return blank.removesuffix(_END) + digest.encode() + _END


def has_checksum(content: bytes) -> bool:
    """Whether the last line is a checksum as from :func:`with_checksum`; the checksum itself is not verified."""
    return bool(re.search(rb'"sha256": "[0-9a-f]{64}"\n}\n\Z', content))


def verify(content: bytes) -> tuple[Any, str]:
    """Decode JSON from :func:`with_checksum`: its content, and the digest, or "" if a byte has changed.

    Raises:
        ValueError: ``content`` is not JSON.
    """
    head, digest = content[: -64 - len(_END)], content[-64 - len(_END) : -len(_END)]
    whole = hashlib.sha256(head + content[-len(_END) :]).hexdigest().encode() == digest
    try:
        values = json.loads(content)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if isinstance(values, dict):
        values.pop(_NAME, None)
    return values, digest.decode() if whole else ""
