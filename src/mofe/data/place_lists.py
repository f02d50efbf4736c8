"""Places in a text file, one a line: a list of a million is too long for an argument of a process or of a pod."""

from collections.abc import Iterable, Iterator

from mofe.errors import MofeError
from mofe.storage import locations

SUFFIX = ".txt"
"""Suffix of a file that lists places; no image has it."""


def listed_places(places: Iterable[locations.Location]) -> Iterator[locations.Location]:
    """The places, and in the place of each text file those that it lists, without empty lines.

    Args:
        places: local paths or URIs; a path inside a list that is relative begins where the process runs, like others.

    Raises:
        MofeError: a text file is missing, is not UTF-8, or lists nothing.
    """
    for place in places:
        if not isinstance(place, str) or not place.lower().endswith(SUFFIX):
            yield place
            continue
        try:
            lines = locations.read_bytes(locations.resolve(place), "list of places").decode().splitlines()
        except UnicodeDecodeError as error:
            raise MofeError(f"the list of places {place} is not UTF-8 text: {error}") from error
        found = [line.strip() for line in lines if line.strip()]
        if not found:
            raise MofeError(f"the list of places {place} is empty: it needs a path or URI a line")
        yield from found
