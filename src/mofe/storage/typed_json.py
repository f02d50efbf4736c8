"""JSON that is held against the types of what it should hold; files without a seal."""

from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from mofe.errors import MofeError
from mofe.storage import locations

T = TypeVar("T")


def read_json(file: locations.Location, kind: type[T], what: str) -> T:
    """The content of a JSON file as a ``kind``: a dataclass, or a list of them.

    Raises:
        MofeError: it is missing, not JSON, or holds something else; with the first thing that is wrong.
    """
    path = locations.resolve(file)
    content = locations.read_bytes(path, what)
    try:
        return TypeAdapter(kind).validate_json(content)
    except ValidationError as error:
        raise MofeError(f"{path} is not a valid {what}: {first_reason(error)}") from error


def first_reason(error: ValidationError) -> str:
    """The first thing that is wrong, and where."""
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"]))
    return f"{place}: {first['msg']}" if place else first["msg"]
