"""JSON files that are validated against types; they have no checksum."""

from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from mofe.errors import MofeError
from mofe.storage import locations

T = TypeVar("T")


def read_json(file: locations.Location, kind: type[T], what: str) -> T:
    """Read a JSON file as a ``kind``: a dataclass, or a list of dataclasses.

    Raises:
        MofeError: the file is missing, is not JSON, or does not fit ``kind``; the message gives the first fault.
    """
    path = locations.resolve(file)
    content = locations.read_bytes(path, what)
    try:
        return TypeAdapter(kind).validate_json(content)
    except ValidationError as error:
        raise MofeError(f"{path} is not a valid {what}: {first_reason(error)}") from error


def first_reason(error: ValidationError) -> str:
    """The first fault, and its place."""
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"]))
    return f"{place}: {first['msg']}" if place else first["msg"]
