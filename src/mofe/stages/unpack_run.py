"""Returns the parameters of one run of a comparison."""

from typing import Any

from mofe.report.configurations import Configuration, checked


def unpack_run(run: dict[str, Any]) -> Configuration:
    """Return the parameters of a run as separate values of their own types, because Kubeflow's tasks need them so.

    Args:
        run: item of the list that plan_runs returned.
    """
    return Configuration(run["name"], int(run["seed"]), **checked(run["parameters"]))  # type: ignore[call-arg]
