"""``mofe stage NAME``: run one stage by hand."""

import functools
import importlib
import inspect
import json
from collections.abc import Callable, Sequence
from typing import Any

import tyro

from mofe.cli.places import check_places
from mofe.errors import MofeError
from mofe.stages import STAGES


def stage(arguments: Sequence[str]) -> None:
    """Run ``mofe stage NAME …``; the stage's signature and docstring give its options. Only its module is imported."""
    if not arguments or arguments[0] not in STAGES:
        error = f"there is no stage {arguments[0]!r}; " if arguments and not arguments[0].startswith("-") else ""
        text = f"{error}run one stage by hand: mofe stage NAME --help, where NAME is one of {', '.join(STAGES)}"
        if error:
            raise MofeError(text)
        print(text)
        return
    name = arguments[0]
    function: Callable[..., Any] = getattr(importlib.import_module(f"mofe.stages.{name}"), name)

    @functools.wraps(function)
    def check_and_call(*given: Any, **named: Any) -> Any:
        from mofe.parameters.rules import check_passwords, check_values

        signature = inspect.signature(function)
        values = signature.bind(*given, **named).arguments
        for option, value in values.items():
            if isinstance(value, str) and signature.parameters[option].default is inspect.Parameter.empty:
                check_places(f"--{option.replace('_', '-')}", value)
        check_passwords(values)
        check_values({n: v for n, v in values.items() if isinstance(v, int | float | str)}, f"mofe stage {name}")
        return function(*given, **named)

    result = tyro.cli(check_and_call, args=arguments[1:], prog=f"mofe stage {name}", registry=_json_options())
    if result is not None:
        print(result)


def _json_options() -> tyro.constructors.ConstructorRegistry:
    """Make tyro read options that are mappings or lists of mappings as JSON."""
    registry = tyro.constructors.ConstructorRegistry()

    @registry.primitive_rule
    def _(info: tyro.constructors.PrimitiveTypeInfo) -> tyro.constructors.PrimitiveConstructorSpec[Any] | None:
        if info.type not in (dict[str, Any] | None, dict[str, Any], list[dict[str, Any]]):
            return None
        return tyro.constructors.PrimitiveConstructorSpec(
            nargs=1,
            metavar="JSON",
            instance_from_str=lambda args: json.loads(args[0]),
            is_instance=lambda value: value is None or isinstance(value, dict | list),
            str_from_instance=lambda value: [json.dumps(value or {})],
        )

    return registry
