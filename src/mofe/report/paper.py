"""The figures that the paper's tables print, read from ``paper.csv``; the paper is arXiv 2510.10584."""

import csv
import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources

BACKBONE = "DINOv2 ViT-B/14"
AVERAGE = "average"
SETS = ("iNaturalist", "Places", "SUN", "Textures")
"""The OOD sets that the printed averages are over."""
_GAIN = "gain in FPR95"
_OF_CLASSES = {
    "385e0240499426c022b773be1ae4da780f057b89c9694c7f47199f62746b6edd": "ImageNet-1K",
    "03614d17127166823c69de1557967383bcf9fbabe3132f70540373919ecd5764": "ImageNet-100",
}
"""ID data by the SHA-256 of its wnids, sorted, one a line."""


@dataclass(frozen=True)
class Printed:
    """The printed figures of one row, fractions in [0, 1], by OOD set of the paper and :data:`AVERAGE`."""

    fpr95: dict[str, float] = field(default_factory=dict)
    auroc: dict[str, float] = field(default_factory=dict)
    id_accuracy: float | None = None


def id_data_of(classes: Collection[str]) -> str:
    """Name of the paper's ID data that has these classes: ImageNet-1K or ImageNet-100; "" for other data.

    ImageNet-100 is the list of Ming et al. (MCM), which the paper cites. Only wnids are recognised.
    """
    return _OF_CLASSES.get(hashlib.sha256("\n".join(sorted(classes)).encode()).hexdigest(), "")


def printed(tables: Sequence[str], method: str, id_data: str) -> Printed:
    """Find the figures of a method on :data:`BACKBONE`.

    Args:
        tables: numbers of the tables to look in; the first that has the row counts.
        method: name of the row in ``paper.csv``.
        id_data: ImageNet-1K or ImageNet-100.

    Returns:
        The figures; without any if the paper does not print the row for this data. A gain in FPR95 (Table 5) is
        subtracted from the FPR95 of its baseline.
    """
    for table in tables:
        if found := _rows().get((table, id_data, BACKBONE, method)):
            break
    else:
        return Printed()
    fpr95 = {ood: float(row["fpr95"]) / 100 for ood, row in found.items()}
    if method.endswith(_GAIN):
        fpr95 = {AVERAGE: printed(["1"], "KNN", id_data).fpr95[AVERAGE] - fpr95[AVERAGE]}
    auroc = {ood: float(row["auroc"]) / 100 for ood, row in found.items() if row["auroc"]}
    accuracy = found[AVERAGE]["id_accuracy"]
    return Printed(fpr95, auroc, float(accuracy) / 100 if accuracy else None)


def beside(figures: Mapping[str, float], groups: Mapping[str, Collection[str]]) -> dict[str, float]:
    """Find the printed figures of a run's OOD sets and averages; names may differ in capitals.

    Args:
        figures: printed figures by OOD set of the paper and :data:`AVERAGE`.
        groups: OOD sets that each figure of the run is the average of. The printed average stands beside an average
            of the paper's four sets, and beside no other.
    """
    members = {name: {name} for name in figures} | {AVERAGE: set(SETS)}
    known = {frozenset(map(str.casefold, members[name])): figure for name, figure in figures.items()}
    keys = {name: frozenset(map(str.casefold, group)) for name, group in groups.items()}
    return {name: known[key] for name, key in keys.items() if key in known}


@cache
def _rows() -> dict[tuple[str, ...], dict[str, dict[str, str]]]:
    """Lines of the file by table, ID data, backbone and method, and by OOD set."""
    text = (resources.files("mofe.report") / "paper.csv").read_text("utf-8")
    rows: dict[tuple[str, ...], dict[str, dict[str, str]]] = {}
    for row in csv.DictReader(line for line in text.splitlines() if not line.startswith("#")):
        key = (row["table"], row["id_data"], row["backbone"], row["method"])
        rows.setdefault(key, {})[row["ood_set"]] = row
    return rows
