"""The paper's tables as configurations: what each row changes in the recipe, and the figures the paper prints for it.

A configuration is what differs from the pipeline's parameters, ``{}`` being the method itself. Rows of several tables
that ask for the same are one run. The paper's figures are of ImageNet-1K with DINOv2 ViT-B/14, averages over
iNaturalist, Places, SUN and Textures, FPR95 and AUROC in [0, 1]; None where the paper's figure is not known to us.
"""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from mofe.artifacts import recipe
from mofe.errors import MofeError

CHANGEABLE: dict[str, type] = {
    "num_experts": int, "strategy": str, "top_k": int, **recipe.CHANGEABLE, "knn_k": int, "bank": str,
}  # fmt: skip
"""The parameters that a configuration may change, and their types."""
Configuration = NamedTuple("Configuration", [("name", str), ("seed", int), *CHANGEABLE.items()])  # type: ignore[misc]
"""One run of a comparison: its name, its seed, and its values of :data:`CHANGEABLE`."""


class Row(NamedTuple):
    """One row of a table: a configuration under a score."""

    label: str
    settings: dict[str, Any]
    paper_fpr95: float | None = None
    paper_auroc: float | None = None
    score: str = "knn"


class Table(NamedTuple):
    """A table of the paper."""

    title: str
    rows: tuple[Row, ...]


PRETRAINED = {"num_experts": 1, "epochs": 0}
NAIVE = {"num_experts": 1, "mixup": "none"}
MOFE_ALONE = {"mixup": "none"}
MIXUP_ALONE = {"num_experts": 1}

TABLES = {
    "1-3": Table(
        "Tables 1 to 3, the rows of DINOv2",
        (
            Row("pre-trained, KNN", PRETRAINED, 0.2927, 0.9267),
            Row("pre-trained, MSP (linear probe)", PRETRAINED, score="msp"),
            Row("pre-trained, MaxLogit (linear probe)", PRETRAINED, score="max_logit"),
            Row("pre-trained, Energy (linear probe)", PRETRAINED, score="energy"),
            Row("naive fine-tuning", NAIVE, 0.2834, 0.9218),
            Row("ours", {}, 0.1701, 0.9589),
        ),
    ),
    "4": Table(
        "Table 4, components",
        (
            Row("naive fine-tuning", NAIVE, 0.2834, 0.9218),
            Row("+ MoFE", MOFE_ALONE, 0.2259, 0.9401),
            Row("+ Dynamic-β Mixup", MIXUP_ALONE, 0.2385, 0.9372),
            Row("both", {}, 0.1701, 0.9589),
        ),
    ),
    "5": Table(
        "Table 5, number of experts",
        (
            Row("2 experts", {"num_experts": 2}, 0.2517),
            Row("3 experts", {"num_experts": 3}, 0.2297),
            Row("5 experts", {"num_experts": 5}, 0.1947),
            Row("7 experts", {"num_experts": 7}, 0.1701),
            Row("8 experts", {"num_experts": 8}, 0.1717),
            Row("9 experts", {"num_experts": 9}, 0.1718),
        ),
    ),
    "6": Table(
        "Table 6, grouping (MoFE without Mixup)",
        (
            Row("taxonomy", {**MOFE_ALONE, "strategy": "taxonomy"}, 0.2563),
            Row("self-learning", {**MOFE_ALONE, "strategy": "self-learning"}, 0.2634),
            Row("ours: WordNet-seeded K-Means", MOFE_ALONE, 0.2259),
            Row("k-means++", {**MOFE_ALONE, "strategy": "kmeans++"}),
            Row("random", {**MOFE_ALONE, "strategy": "random"}),
        ),
    ),
    "7": Table(
        "Table 7, Mixup (one expert)",
        (
            Row("ours", MIXUP_ALONE, 0.2385, 0.9372),
            Row("without dynamic β", {**MIXUP_ALONE, "mixup": "fixed"}, 0.2496),
            Row("without Reg", {**MIXUP_ALONE, "regulariser": "none"}, 0.3043),
        ),
    ),
    "code": Table(
        "Where the authors' code departs from the paper",
        (
            Row("the paper's method", {}, 0.1701, 0.9589),
            Row("router by class", {"router": "class"}),
            Row("λ not folded", {"fold_lambda": False}),
            Row("one bank for all experts", {"bank": "global"}),
            Row("experts from the naive model", {"expert_init": "naive"}),
            Row("negatives weigh 0.1", {"negative_weight": 0.1}),
        ),
    ),
}
"""By the name that the parameter ``tables`` takes. Table 5 prints gains over pre-trained KNN; here are their FPR95."""


def checked(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings whose names and types are right; whole numbers that have passed through JSON are whole again.

    Raises:
        MofeError: a name that no configuration has, or a value of another type.
    """
    clean: dict[str, Any] = {}
    for name, value in settings.items():
        if name not in CHANGEABLE:
            raise MofeError(f"a configuration has no parameter {name!r}; it may change {', '.join(CHANGEABLE)}")
        wanted = CHANGEABLE[name]
        if wanted is float and isinstance(value, str):  # YAML takes 1e-4 for text
            with suppress(ValueError):
                value = float(value)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if wanted is float and number:
            clean[name] = float(value)
        elif wanted is int and number and float(value).is_integer():
            clean[name] = int(value)
        elif type(value) is wanted:
            clean[name] = value
        else:
            raise MofeError(f"configuration: {name} = {value!r} is not of type {wanted.__name__}")
    return clean


def name_of(settings: Mapping[str, Any]) -> str:
    """What a configuration is called, the same for the same settings: ``mixup=none num_experts=1``."""
    return " ".join(f"{name}={settings[name]}" for name in sorted(settings)) or "the method"


def requested(tables: list[str], configurations: list[dict[str, Any]]) -> list[Table]:
    """The tables asked for, and one of the user's own configurations, if there are any.

    Args:
        tables: keys of :data:`TABLES`.
        configurations: each a ``name`` and settings.

    Raises:
        MofeError: an unknown table, a configuration without a name or with wrong settings, or nothing to do.
    """
    for name in tables:
        if name not in TABLES:
            raise MofeError(f"there is no table {name!r}; there are {', '.join(TABLES)}")
    own = []
    for number, item in enumerate(configurations, start=1):
        if not isinstance(item.get("name"), str):
            raise MofeError(f"configurations, entry {number}: it needs a name")
        own.append(Row(item["name"], checked({key: value for key, value in item.items() if key != "name"})))
    found = [TABLES[name] for name in tables] + ([Table("Further configurations", tuple(own))] if own else [])
    if not found:
        raise MofeError("nothing to compare: name some tables or configurations")
    return found
