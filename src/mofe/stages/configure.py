"""The parameters of one run of a comparison."""

from typing import Any

from mofe.ablations import Configuration, checked


def configure(run: dict[str, Any], base: dict[str, Any]) -> Configuration:
    """Put the settings of a run over the pipeline's parameters.

    Args:
        run: from plan: name, seed, settings.
        base: the pipeline's parameters, all those that a configuration may change.
    """
    return Configuration(run["name"], int(run["seed"]), **{**checked(base), **checked(run["settings"])})
