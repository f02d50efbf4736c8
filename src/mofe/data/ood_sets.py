"""The parameter ``ood_data``: a list of out-of-distribution sets, each with a name, a URI and optionally a kind."""

import re
from typing import Any

from mofe.errors import MofeError

KINDS = ("near", "far")
RESERVED = ("train", "id-test", "average")
"""Names that the pipeline itself uses."""


def check_sets(ood_data: list[Any]) -> None:
    """Refuse an invalid list of OOD sets before anything is read.

    Raises:
        MofeError: the list is empty, or an entry has no valid name and URI.
    """
    if not ood_data:
        raise MofeError("ood_data is empty: give at least one out-of-distribution set, as {dataset: NAME, uri: URI}")
    for number, item in enumerate(ood_data, start=1):
        if not isinstance(item, dict):
            raise MofeError(f"ood_data, entry {number}: expected dataset, uri and optionally kind, found {item!r}")
        if not {"dataset", "uri"} <= set(item) <= {"dataset", "uri", "kind"}:
            found = ", ".join(map(str, item))
            raise MofeError(f"ood_data, entry {number}: expected dataset, uri and optionally kind, found {found}")
        if item.get("kind", "") not in ("", *KINDS):
            raise MofeError(f"ood_data, entry {number}: kind = {item['kind']!r} is not one of {', '.join(KINDS)}")
        if not isinstance(item["uri"], str) or not item["uri"].strip():
            raise MofeError(f"ood_data, entry {number}: uri = {item['uri']!r} must be a path or URI")
    names = [item["dataset"] for item in ood_data]
    for name in names:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", str(name)) or name in RESERVED:
            raise MofeError(
                f"ood_data: {name!r} cannot name a set: use letters, digits, . _ - (not {', '.join(RESERVED)})"
            )
        if names.count(name) > 1:
            raise MofeError(f"ood_data has the name {name!r} twice: give each set its own")
