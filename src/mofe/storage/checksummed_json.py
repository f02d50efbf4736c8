"""JSON that vouches for itself: its last line is the SHA-256 of all its other bytes."""

import hashlib
import json
import re
from typing import Any


def as_json(content: Any) -> bytes:
    """Indented JSON; NaN and infinity are refused."""
    return (json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


_NAME, _END = "sha256", b'"\n}\n'


def sealed(content: dict[str, Any]) -> bytes:
    """JSON whose last line is the SHA-256 of all other bytes; :func:`unsealed` reads it."""
    blank = as_json({**content, _NAME: ""})
    digest = hashlib.sha256(blank).hexdigest()
    return blank.removesuffix(_END) + digest.encode() + _END


def is_sealed(content: bytes) -> bool:
    """Whether it ends as what :func:`sealed` gives; a byte before that may have changed."""
    return bool(re.search(rb'"sha256": "[0-9a-f]{64}"\n}\n\Z', content))


def unsealed(content: bytes) -> tuple[Any, str]:
    """What :func:`sealed` was given, and the digest; "" in its place if a byte is not as it was written.

    Raises:
        ValueError: it is not JSON.
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
