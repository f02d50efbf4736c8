"""The paper's tables as configurations: the settings that each row changes, and the row of the paper that it repeats.

A configuration holds the settings that differ from the pipeline's parameters; ``{}`` is the method itself. Rows with
the same configuration share one run, also across tables. The figures that the paper prints are in
``report/paper.csv``.
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
    score: str = "knn"
    paper: str = ""
    """Name of the row in ``report/paper.csv``; "" if the paper has no such row."""
    reg: bool | None = None
    """Whether the paper's row is trained with Reg (Eq. 14, part of Mixup); None if nothing is trained, or unknown."""


class Table(NamedTuple):
    """A table of the paper, or of own configurations."""

    title: str
    rows: tuple[Row, ...]
    paper: tuple[str, ...] = ()
    """Numbers of the paper's tables that have the rows."""


PRETRAINED = {"num_experts": 1, "epochs": 0}
NAIVE = {"num_experts": 1, "mixup": "none"}
MOFE_ALONE = {"mixup": "none"}
MIXUP_ALONE = {"num_experts": 1}


def _of_experts(number: int) -> Row:
    return Row(f"{number} experts", {"num_experts": number}, paper=f"{number} clusters, gain in FPR95", reg=True)


TABLES = {
    "1-3": Table(
        "Tables 1 to 3, the rows of DINOv2",
        (
            Row("pre-trained, MSP (linear probe)", PRETRAINED, "msp", "MSP"),
            Row("pre-trained, MaxLogit (linear probe)", PRETRAINED, "max_logit", "MaxLogit"),
            Row("pre-trained, Energy (linear probe)", PRETRAINED, "energy", "Energy"),
            Row("pre-trained, KNN", PRETRAINED, "knn", "KNN"),
            Row("fine-tuned, MSP", NAIVE, "msp", "fine-tuned, MSP", reg=False),
            Row("fine-tuned, MaxLogit", NAIVE, "max_logit", "fine-tuned, MaxLogit", reg=False),
            Row("fine-tuned, Energy", NAIVE, "energy", "fine-tuned, Energy", reg=False),
            Row("fine-tuned, KNN", NAIVE, "knn", "fine-tuned, KNN", reg=False),
            Row("ours", {}, "knn", "ours", reg=True),
        ),
        ("1", "2", "3"),
    ),
    "4": Table(
        "Table 4, components",
        (
            Row("baseline: pre-trained, KNN", PRETRAINED, paper="baseline (pre-trained, KNN)"),
            Row("+ MoFE", MOFE_ALONE, paper="+ MoFE", reg=False),
            Row("+ Dynamic-β Mixup", MIXUP_ALONE, paper="+ dynamic-beta Mixup", reg=True),
            Row("both", {}, paper="+ both", reg=True),
        ),
        ("4",),
    ),
    "5": Table(
        "Table 5, number of experts (the paper's FPR95 is 29.27 minus the printed gain)",
        tuple(_of_experts(number) for number in (2, 3, 5, 7, 8, 9)),
        ("5",),
    ),
    "6": Table(
        "Table 6, grouping (MoFE without Mixup)",
        (
            Row("baseline: pre-trained, KNN", PRETRAINED, paper="baseline"),
            Row("taxonomy", {**MOFE_ALONE, "strategy": "taxonomy"}, paper="taxonomy", reg=False),
            Row("self-learning", {**MOFE_ALONE, "strategy": "self-learning"}, paper="self-learning", reg=False),
            Row("ours: WordNet-seeded K-Means", MOFE_ALONE, paper="ours", reg=False),
            Row("k-means++", {**MOFE_ALONE, "strategy": "kmeans++"}),
            Row("random", {**MOFE_ALONE, "strategy": "random"}),
        ),
        ("6",),
    ),
    "7": Table(
        "Table 7, Mixup (one expert)",
        (
            Row("baseline: pre-trained, KNN", PRETRAINED, paper="baseline"),
            Row("without Reg", {**MIXUP_ALONE, "regulariser": "none"}, paper="without Reg", reg=False),
            Row("without dynamic β", {**MIXUP_ALONE, "mixup": "fixed"}, paper="without dynamic beta", reg=True),
            Row("ours", MIXUP_ALONE, paper="ours", reg=True),
        ),
        ("7",),
    ),
    "code": Table(
        "Where the authors' code departs from the paper",
        (
            Row("the paper's method", {}, paper="ours", reg=True),
            Row("router by class", {"router": "class"}),
            Row("λ not folded", {"fold_lambda": False}),
            Row("one bank for all experts", {"bank": "global"}),
            Row("experts from the naive model", {"expert_init": "naive"}),
            Row("negatives weigh 0.1", {"negative_weight": 0.1}),
        ),
        ("2", "3"),
    ),
}
"""Tables by their name in the parameter ``tables``."""


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
