"""Which runs a comparison consists of."""

from typing import Any

from mofe.configurations import checked, name_of, requested
from mofe.errors import MofeError


def plan_runs(
    tables: list[str], configurations: list[dict[str, Any]], seeds: list[int], base: dict[str, Any]
) -> list[dict[str, Any]]:
    """List the runs that some tables need: every configuration with every seed, those that are the same once.

    Args:
        tables: of the paper: 1-3, 4 (components), 5 (number of experts), 6 (grouping), 7 (Mixup); or code, where the
            authors' code departs from the paper.
        configurations: further ones, each a name and the parameters it changes.
        seeds: of everything random; the tables give mean and standard deviation over them.
        base: the pipeline's parameters; a setting that equals its own changes nothing.

    Returns:
        For each run its ``name``, ``seed`` and ``parameters``, and the names of the ``rows`` that it stands for.
    """
    seeds = [int(seed) for seed in seeds]  # Kubeflow hands numbers on as floats
    if not seeds or len(set(seeds)) < len(seeds):
        raise MofeError(f"seeds = {seeds}: give at least one, and each once")
    base = checked(base)
    runs: dict[str, dict[str, Any]] = {}
    for row in (row for table in requested(tables, configurations) for row in table.rows):
        settings = {name: value for name, value in row.settings.items() if base.get(name) != value}
        run = runs.setdefault(name_of(settings), {"parameters": {**base, **settings}, "rows": []})
        if (asked := name_of(row.settings)) not in run["rows"]:
            run["rows"].append(asked)
    return [{"name": name, "seed": seed, **run} for seed in seeds for name, run in runs.items()]
