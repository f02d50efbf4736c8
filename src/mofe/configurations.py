"""The paper's tables as configurations: the settings that each row changes, and the figures that the paper prints.

A configuration holds the settings that differ from the pipeline's parameters; ``{}`` is the method itself. Rows with
the same configuration share one run, also across tables. The paper's figures are for ImageNet-1K with DINOv2
ViT-B/14: FPR95 and AUROC in [0, 1], averages over iNaturalist, Places, SUN and Textures. None means that the paper's
figure is not known to us.
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
"""Tables by their name in the parameter ``tables``. For table 5 the paper prints gains over pre-trained KNN; the FPR95
here are computed from them."""


def checked(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Check names and types of settings, and convert numbers to their type, because JSON and YAML can change it.

    Raises:
        MofeError: a configuration has no setting of that name, or a value has the wrong type.
    """
    clean: dict[str, Any] = {}
    for name, value in settings.items():
        if name not in CHANGEABLE:
            raise MofeError(f"a configuration has no parameter {name!r}; it may change {', '.join(CHANGEABLE)}")
        wanted = CHANGEABLE[name]
        if wanted is float and isinstance(value, str):  # YAML reads 1e-4 as text
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
    """The name of a configuration, such as ``mixup=none num_experts=1``; equal settings give equal names."""
    return " ".join(f"{name}={settings[name]}" for name in sorted(settings)) or "the method"


def requested(tables: list[str], configurations: list[dict[str, Any]]) -> list[Table]:
    """The requested tables, and a table of the user's own configurations if there are any.

    Args:
        tables: keys of :data:`TABLES`.
        configurations: dictionaries of a ``name`` and settings.

    Raises:
        MofeError: a table is unknown, a configuration has no name or wrong settings, or nothing is requested.
    """
    for name in tables:
        if name not in TABLES:
            raise MofeError(f"there is no table {name!r}; there are {', '.join(TABLES)}")
    own = []
    for number, item in enumerate(configurations, start=1):
        if not isinstance(item.get("name"), str):
            raise MofeError(f"configurations, entry {number}: add a name")
        own.append(Row(item["name"], checked({key: value for key, value in item.items() if key != "name"})))
    found = [TABLES[name] for name in tables] + ([Table("Further configurations", tuple(own))] if own else [])
    if not found:
        raise MofeError("nothing to compare: name some tables or configurations")
    return found
