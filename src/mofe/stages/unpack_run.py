"""The parameters of one run of a comparison."""

from typing import Any

from mofe.configurations import Configuration, checked


def unpack_run(run: dict[str, Any]) -> Configuration:
    """Hand on the parameters of a run one by one, each of its type, which is what Kubeflow's stages take.

    Args:
        run: from plan_runs.
    """
    return Configuration(run["name"], int(run["seed"]), **checked(run["parameters"]))  # type: ignore[call-arg]
