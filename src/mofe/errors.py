"""The exception for errors that a user can fix, and short forms of values and of other libraries' messages."""

import json
from contextlib import suppress
from typing import Any

LONGEST = 60
"""Characters of a value that a message shows."""


class MofeError(ValueError):
    """An error that the user can fix. The message says in one line what is wrong, where, and what to do.

    It is a ``ValueError`` too, as Python's own libraries raise of a wrong argument.
    """


def in_one_line(error: Any) -> str:
    """The text of an exception, or a text, without line breaks: at most 300 characters."""
    return " ".join(str(error).split())[:300]


def shown(value: Any) -> str:
    """A value in a message: its text, or its type and shape where the text would be long."""
    if isinstance(value, str | int | float | bool | None):
        text = repr(value)
        return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
    size = getattr(value, "shape", None)
    return f"a {type(value).__name__}" + (f" of shape {tuple(size)}" if isinstance(size, tuple) else "")


def server_message(error: Any) -> str:
    """The message in the response's body, else the body, else the exception's text: at most 300 characters."""
    text = str(getattr(error, "body", "") or getattr(error, "message", "") or error)
    with suppress(ValueError):
        said = json.loads(text)
        text = str(said.get("message") or said.get("error_message") or text) if isinstance(said, dict) else text
    return in_one_line(text)
