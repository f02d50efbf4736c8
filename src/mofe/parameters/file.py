"""Reads parameters from a file and from NAME=VALUE, and checks their names and types against a pipeline."""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml

from mofe.errors import MofeError

PipelineName = Literal["mofe", "sharded", "tables", "detect"]

_KINDS = {
    "STRING": (str, "text"),
    "NUMBER_INTEGER": (int, "a whole number"),
    "NUMBER_DOUBLE": (float, "a number"),
    "BOOLEAN": (bool, "true or false"),
    "LIST": (list, "a list"),
    "STRUCT": (dict, "a mapping"),
}


def read_parameters(file: Path, settings: Sequence[str]) -> dict[str, Any]:
    """Read the parameters of a YAML file, and those of ``--set name=value …``, which override the file.

    Raises:
        MofeError: the file does not exist, cannot be read, or does not hold parameters.
    """
    try:
        content = _yaml(file.read_text(encoding="utf-8"), str(file))
    except FileNotFoundError as error:
        raise MofeError(f"there is no parameter file {file}") from error
    except OSError as error:
        raise MofeError(f"cannot read the parameter file {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise MofeError(f"{file} is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise MofeError(f"{file} must hold parameters, one 'name: value' per line")
    return {**content, **settings_of(settings)}


def settings_of(settings: Sequence[str]) -> dict[str, Any]:
    """Parse the values of ``--set name=value …``."""
    given: dict[str, Any] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals:
            raise MofeError(f"--set {setting}: expected name=value")
        given[name] = _yaml(value, f"--set {name}") if value else ""
    return given


def _yaml(text: str, where: str) -> Any:
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError comes from text like a date
        raise MofeError(f"{where} is not YAML: {' '.join(str(error).split())}") from error


def pipeline_parameters(pipeline: Path) -> dict[str, dict[str, Any]]:
    """Read the parameters of a compiled pipeline: name → its type, default and description."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    root = next(iter(yaml.load_all(pipeline.read_text(encoding="utf-8"), loader)))["root"]
    return dict(root["inputDefinitions"]["parameters"])


def check_parameters(
    given: Mapping[str, Any], known: Mapping[str, Mapping[str, Any]], where: str, *, complete: bool = True
) -> dict[str, Any]:
    """Check names, types and values of parameters before any work begins.

    Args:
        given: name → value.
        known: result of :func:`pipeline_parameters`.
        where: source of the values, for error messages.
        complete: whether every parameter without a default must be given.

    Returns:
        The values, converted to the types of the pipeline.

    Raises:
        MofeError: a name is unknown, a value is missing, has another type or is not allowed, or a URI contains a
            password. The message names the parameter, its value, and the allowed values.
    """
    from mofe.parameters.rules import check_passwords, check_values

    check_passwords(given)
    typed = {name: _coerce(name, value, known, where) for name, value in given.items()}
    if complete:
        _require(typed, known, where)
    check_values(typed, where, {name: spec["defaultValue"] for name, spec in known.items() if "defaultValue" in spec})
    return typed


def _coerce(name: str, value: Any, known: Mapping[str, Mapping[str, Any]], where: str) -> Any:
    """Convert a value to the pipeline's type: a whole number to a float or to text, and text to a float."""
    if name not in known:
        close = difflib.get_close_matches(str(name), known, n=1)
        hint = f"; did you mean {close[0]}?" if close else f"; it has {', '.join(sorted(known))}"
        raise MofeError(f"{where}: the pipeline has no parameter {name!r}{hint}")
    kind, wanted = _KINDS[known[name]["parameterType"]]
    if kind is float and (type(value) is int or (isinstance(value, str) and _is_number(value))):
        return float(value)  # YAML reads 1e-4 as text
    if kind is str and type(value) is int and str(known[name].get("defaultValue")).isdecimal():
        return str(value)  # numbers of CPUs and accelerators, which Kubeflow takes as text
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise MofeError(f"{where}: {name} = {value!r} is not {wanted}")
    return value


def _require(given: Mapping[str, Any], known: Mapping[str, Mapping[str, Any]], where: str) -> None:
    """Raise MofeError if a parameter without a default is missing."""
    for name, spec in known.items():
        if name not in given and "defaultValue" not in spec and not spec.get("isOptional"):
            raise MofeError(f"{where}: the parameter {name} is missing: {spec.get('description', '')}")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
