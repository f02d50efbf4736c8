"""Rules for the values of parameters, each as a test and in words."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from mofe.errors import MofeError, in_one_line


class Rule(NamedTuple):
    """The allowed values of a parameter."""

    holds: Callable[[Any], bool]
    allowed: str
    """The allowed values in words, as the end of an error message."""

    def check(self, name: str, value: Any) -> None:
        """Check a value.

        Raises:
            MofeError: the value is not allowed; the message names the parameter, its value, and the allowed values.
        """
        try:
            fine = self.holds(value)
        except Exception:  # a value of any type
            fine = False
        if not fine:
            infinite = isinstance(value, float) and not math.isfinite(value)
            raise MofeError(
                f"{name} = {in_one_line(repr(value))} {'must be a finite number' if infinite else self.allowed}"
            )


def between(low: float, high: float) -> Rule:
    """Allow a finite number in [low, high]."""
    words = f"must lie between {low} and {high}" if math.isfinite(high) else f"must be at least {low}"
    return Rule(lambda value: low <= value <= high and math.isfinite(value), words)


def at_least(low: float) -> Rule:
    """Allow a finite number of at least ``low``."""
    return between(low, math.inf)


def one_of(*names: str) -> Rule:
    """Allow one of ``names``."""
    return Rule(lambda value: value in names, f"is not one of {', '.join(names)}")


TRUE_OR_FALSE = Rule(lambda value: isinstance(value, bool), "must be true or false")
