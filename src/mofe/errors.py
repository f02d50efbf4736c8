"""The one exception that speaks to the person who runs mofe, and other people's messages in one line."""

import json
from contextlib import suppress
from typing import Any


class MofeError(Exception):
    """Something the user can mend: the message says what is wrong, where, and what to do, in one line."""


def in_one_line(error: Any) -> str:
    """The message in the answer's body; else the body, or what the exception says. At most 300 characters."""
    text = str(getattr(error, "body", "") or getattr(error, "message", "") or error)
    with suppress(ValueError):
        said = json.loads(text)
        text = str(said.get("message") or said.get("error_message") or text) if isinstance(said, dict) else text
    return " ".join(text.split())[:300]
