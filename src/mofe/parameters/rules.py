"""Allowed values of the pipelines' parameters and of the numbers on the command line, checked before any work.

A check here takes a second, and finds an invalid value before the stage that uses it, which may run after a day. Each
stage checks its parameters again, because on a cluster they may come from a form in the UI.
"""

import math
import re
from collections.abc import Mapping
from typing import Any, get_args

from mofe.artifacts import recipe
from mofe.artifacts.detector import Bank
from mofe.artifacts.parts import check_shards
from mofe.artifacts.rule import Rule, at_least, between, one_of
from mofe.artifacts.score_names import ALL, IN_SPACES, OWN
from mofe.data.ood_sets import check_sets
from mofe.errors import MofeError
from mofe.partitioning.strategies import STRATEGIES
from mofe.report.configurations import requested
from mofe.storage.locations import check_uri


def _like(pattern: str, words: str) -> Rule:
    return Rule(lambda value: re.fullmatch(pattern, value) is not None, words)


_QUANTITY = r"\d+(\.\d+)?([EPTGMk]i?|Ki|m)?"
_LABEL = r"([a-z0-9A-Z.-]+/)?[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?"
_TEXT = Rule(lambda value: "\0" not in value, "must be text")
_COUNT = at_least(0)
_AT_LEAST_ONE = at_least(1)


def _is_toleration(value: Any) -> bool:
    kinds = {"key": str, "operator": str, "value": str, "effect": str, "tolerationSeconds": int}
    return (
        isinstance(value, dict)
        and all(name in kinds and type(item) is kinds[name] for name, item in value.items())
        and value.get("operator", "Equal") in ("Exists", "Equal")
        and value.get("effect", "") in ("", "NoSchedule", "PreferNoSchedule", "NoExecute")
    )


def _is_threshold(value: str) -> bool:
    kind, equals, number = value.strip().rpartition("=")
    share = float(number)
    if not equals:
        return math.isfinite(share)
    return (kind == "tpr" and 0 < share <= 1) or (kind == "fpr" and 0 <= share < 1)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _scores_in_words() -> str:
    spaces = ", ".join(f"{space}.NAME" for space in IN_SPACES)
    return f"{', '.join(OWN)}, or {spaces} of a detector that was compared (docs/reference/detectors.md)"


def _is_label(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= 63 and re.fullmatch(f"({_LABEL})?", value) is not None


def _is_quantity(value: Any) -> bool:
    return not isinstance(value, bool) and re.fullmatch(_QUANTITY, str(value)) is not None


RULES: dict[str, Rule] = {
    **recipe.RULES,
    **dict.fromkeys(("train_data", "test_data", "detector"), _like(r"[^\0]*[^\0\s][^\0]*", "must be a path or URI")),
    **dict.fromkeys(("synsets", "checkpoints"), _TEXT),
    "train_images_per_class": _COUNT,
    "evaluation_images_per_class": _COUNT,
    "images_per_class": _COUNT,
    "max_rejected": between(0, 1),
    "backbone": _like(r"(?s).*\S.*", "must be the name of a timm model, or hf-hub:…"),
    "backbone_args": Rule(lambda value: all(isinstance(name, str) for name in value), "must have names for keys"),
    "weights": _like(
        r"(?s)|random|.*\.(safetensors|pth|pt|bin)", 'must be "", random, or a .safetensors, .pth, .pt or .bin file'
    ),
    "mofe_depth": _AT_LEAST_ONE,
    **dict.fromkeys(("text_model", "text_weights"), _TEXT),
    "text_templates": Rule(
        lambda value: bool(value) and all("{}" in template for template in value),
        "must hold sentences with {} in the place of the class name",
    ),
    "text_negatives": Rule(lambda value: value == 0 or value >= 100, "must be 0, or at least 100"),
    "text_embeddings": _like(r"(?s)|.*\.safetensors", 'must be "" or a .safetensors file'),
    "num_experts": _AT_LEAST_ONE,
    "strategy": one_of(*STRATEGIES),
    "top_k": _AT_LEAST_ONE,
    "knn_k": _COUNT,
    "bank": one_of(*get_args(Bank)),
    "inference_batch_size": recipe.RULES["batch_size"],
    "num_workers": between(0, 1024),
    "precision": one_of("auto", "bf16", "fp32"),
    "accelerator": _like(_LABEL, "must be the name of a resource, such as nvidia.com/gpu"),
    **dict.fromkeys(
        ("accelerators", "train_accelerators"),
        Rule(lambda value: value.isdecimal() and int(value) <= 64, "must be a whole number between 0 and 64"),
    ),
    "processes": between(0, 64),
    "num_nodes": between(1, 4096),
    "node_resources": Rule(
        lambda value: all(re.fullmatch(_LABEL, name) and _is_quantity(item) for name, item in value.items()),
        'must map names of resources to quantities, such as {"nvidia.com/gpu": 8}',
    ),
    "node_selector": Rule(
        lambda value: all(re.fullmatch(_LABEL, name) and _is_label(item) for name, item in value.items()),
        'must map keys of labels to values, all text, such as {"pool": "gpu"}',
    ),
    "tolerations": Rule(
        lambda value: all(_is_toleration(item) for item in value),
        "must hold tolerations in the syntax of Kubernetes: key, operator (Exists or Equal), value, effect "
        "(NoSchedule, PreferNoSchedule or NoExecute), tolerationSeconds",
    ),
    "cpu": _like(r"\d+(\.\d+)?|\d+m", "must be a number of CPUs, such as 8 or 500m"),
    "memory": _like(r"\d+([EPTGMK]i?)?", "must be a size, such as 32Gi"),
    "credentials": _like(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?", "must be the name of a Secret"),
    "images": Rule(
        lambda value: bool(value) and all(isinstance(place, str) and place.strip() for place in _listed(value)),
        "must name files, folders, globs, archives or URIs",
    ),
    "shards": between(1, 100_000),
    "shard": _COUNT,
    "threshold": Rule(
        lambda value: _is_threshold(value),
        "must be tpr=SHARE (more than 0, at most 1), fpr=SHARE (at least 0, less than 1) or a number",
    ),
    "score": Rule(lambda value: value in ALL, "is not one of " + _scores_in_words()),
    "neighbours": between(0, 1000),
    "tables": Rule(lambda value: all(isinstance(name, str) for name in value), "must hold names of tables"),
    "configurations": Rule(lambda value: all(isinstance(item, dict) for item in value), "must hold mappings"),
    "seeds": Rule(
        lambda value: 0 < len(set(value)) == len(value) and all(seed == int(seed) >= 0 for seed in value),
        "must hold whole numbers that are at least 0, each number once",
    ),
    "port": between(1, 65_535),
    "max_megabytes": between(1, 1 << 20),
    "max_images": between(1, 1 << 20),
}
"""Rule of each parameter by name; a name has the same meaning in all pipelines and commands.

``ood_data`` is not listed, because :func:`mofe.data.ood_sets.check_sets` checks it.
"""


def check_values(given: Mapping[str, Any], where: str, defaults: Mapping[str, Any] | None = None) -> None:
    """Check values against :data:`RULES`, and values that must fit together.

    Args:
        given: name → value, of the right types.
        where: source of the values, for error messages.
        defaults: defaults of the pipeline's other parameters.

    Raises:
        MofeError: a value is not allowed; the message names the parameter, its value, and the allowed values.
    """
    for name, value in given.items():
        _check(name, value, where)
    together = {**(defaults or {}), **given}
    try:
        if "ood_data" in given:
            check_sets(given["ood_data"])
        if str(given.get("threshold", "")).strip().startswith("fpr") and not given.get("unknown"):
            raise MofeError(
                f"threshold = {given['threshold']!r} must be tpr=SHARE or a number, because fpr=SHARE needs examples "
                "of unknown images: give them to mofe detect by --unknown"
            )
        if {"shards", "train_data"} <= together.keys():
            check_shards(together["shards"])
        if recipe.RULES.keys() - {"seed"} <= together.keys():
            changes: list[dict[str, Any]] = [{}]
            if "configurations" in together:
                tables = requested(together["tables"], together["configurations"])
                changes = [row.settings for table in tables for row in table.rows]
            for settings in changes:
                _check_run({"seed": 0, **together}, settings, where)
    except MofeError as error:
        raise MofeError(f"{where}: {str(error).removeprefix(f'{where}: ')}") from error


def _check(name: str, value: Any, where: str) -> None:
    if name in RULES:
        RULES[name].check(f"{where}: {name}", value)


def _check_run(parameters: Mapping[str, Any], settings: Mapping[str, Any], where: str) -> None:
    """Check the parameters of one training run: ``parameters``, changed by the ``settings`` of a configuration."""
    for name, value in settings.items():
        _check(name, value, where)
    run = {**parameters, **settings}
    recipe.Recipe(**{name: run[name] for name in recipe.RULES})
    if run.get("top_k", 1) > run.get("num_experts", math.inf):
        raise MofeError(f"top_k = {run['top_k']:g} must lie between 1 and num_experts = {run['num_experts']:g}")


def check_passwords(value: Any) -> None:
    """Check that no URI in a value, at any depth, contains a password.

    Raises:
        MofeError: a URI contains one; the message does not show the password.
    """
    if isinstance(value, str):
        check_uri(value)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            check_passwords(key)
            check_passwords(item)
    elif isinstance(value, list | tuple):
        for item in value:
            check_passwords(item)
