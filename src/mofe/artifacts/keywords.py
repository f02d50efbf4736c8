"""Gives a function parameters that are defined elsewhere, without listing them again.

The decorator :func:`takes` completes the signature and the docstring of a function with ``**name``. kfp, the command
line and ``help`` read both, so they see each parameter with its type, default and description. The function itself gets
one dictionary.
"""

import functools
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

Result = TypeVar("Result")
ENTRY = r"(?m)^    ({name}): (.*(?:\n {{5,}}.*)*)\n?"
"""Pattern of an entry of a docstring's Args, with its continuation lines."""


class Keyword(NamedTuple):
    """Type, default and description of one parameter."""

    type: Any
    default: Any
    description: str


def keywords_of(function: Callable[..., Any]) -> dict[str, Keyword]:
    """Read the parameters of a function from its signature and docstring: name → type, default, description."""
    described = dict(re.findall(ENTRY.format(name=r"\w+"), inspect.getdoc(function) or ""))
    parameters = inspect.signature(function).parameters
    return {name: Keyword(p.annotation, p.default, described[name]) for name, p in parameters.items()}


def takes(
    keywords: Mapping[str, Keyword], *, after: str = ""
) -> Callable[[Callable[..., Result]], Callable[..., Result]]:
    """Replace a function's ``**name``, and the entry ``name`` in its docstring, by parameters.

    Args:
        keywords: parameters to add; one that the function already declares is not changed.
        after: name of the function's parameter to add them after; "" puts them first.
    """

    def complete(function: Callable[..., Result]) -> Callable[..., Result]:
        *declared, rest = inspect.signature(function).parameters.values()
        added = {name: keyword for name, keyword in keywords.items() if name not in {p.name for p in declared}}
        place = [p.name for p in declared].index(after) + 1 if after else 0
        kind = declared[place - 1].kind if after else inspect.Parameter.POSITIONAL_OR_KEYWORD
        parameters = [
            *declared[:place],
            *(inspect.Parameter(name, kind, default=k.default, annotation=k.type) for name, k in added.items()),
            *declared[place:],
        ]
        signature = inspect.signature(function).replace(parameters=parameters)
        entries = "".join(f"    {name}: {keyword.description}\n" for name, keyword in added.items())

        @functools.wraps(function)
        def completed(*given: Any, **named: Any) -> Result:
            bound = signature.bind(*given, **named)
            bound.apply_defaults()
            return function(**bound.arguments)

        del completed.__wrapped__  # type: ignore[attr-defined]  # tyro would read the incomplete docstring behind it
        completed.__signature__ = signature  # type: ignore[attr-defined]
        completed.__annotations__ = {p.name: p.annotation for p in parameters} | {"return": signature.return_annotation}
        completed.__doc__ = re.sub(ENTRY.format(name=rest.name), lambda _: entries, inspect.getdoc(function) or "")
        return completed

    return complete
