"""Check of the paths and URIs that a command gets."""

from mofe.errors import MofeError


def check_places(option: str, *places: str | None) -> None:
    """Refuse an empty path or URI, because an empty path would mean the current folder; None is an unused option.

    Raises:
        MofeError: a path or URI is empty; the message names ``option``.
    """
    if any(place is not None and not place.strip() for place in places):
        raise MofeError(f"{option} is empty: check that the variables of your script are set")
