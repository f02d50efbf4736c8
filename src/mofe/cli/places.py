"""Places that a command is given."""

from mofe.errors import MofeError


def check_places(option: str, *places: str | None) -> None:
    """Refuse an empty place, which as a path would be the current folder; None is a place that was not given.

    Raises:
        MofeError: one is empty; the message names ``option``.
    """
    if any(place is not None and not place.strip() for place in places):
        raise MofeError(f"{option} was given an empty place: is a variable of your script not set?")
