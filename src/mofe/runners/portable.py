"""Places inside the work folder, written so that they hold after the folder was moved or copied.

A cache that keeps absolute paths is of no use to a folder that was renamed, and a copy would take the artifacts of the
original. So what is kept names the work folder by :data:`HERE`.
"""

from pathlib import Path
from typing import Any

HERE = "work-folder:"
"""Placeholder for the path of the work folder."""


def portable(value: Any, work: Path) -> Any:
    """A value of JSON in which paths in the work folder begin with :data:`HERE`."""
    return _replaced(value, str(work), HERE)


def placed(value: Any, work: Path) -> Any:
    """The value that :func:`portable` was given, for the place where the work folder is now."""
    return _replaced(value, HERE, str(work))


def _replaced(value: Any, old: str, new: str) -> Any:
    if isinstance(value, dict):
        return {name: _replaced(inner, old, new) for name, inner in value.items()}
    if isinstance(value, list):
        return [_replaced(inner, old, new) for inner in value]
    if isinstance(value, str) and (value == old or value.startswith(f"{old}/")):
        return new + value.removeprefix(old)
    return value
