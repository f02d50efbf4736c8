"""Lists the runs of a comparison."""

from typing import Any

from mofe.errors import MofeError
from mofe.report.configurations import checked, name_of, requested


def plan_runs(
    tables: list[str], configurations: list[dict[str, Any]], seeds: list[int], base: dict[str, Any]
) -> list[dict[str, Any]]:
    """List the runs that the tables need: every configuration with every seed, equal configurations once.

    Args:
        tables: tables of the paper: 1-3, 4 (components), 5 (number of experts), 6 (grouping), 7 (Mixup); or code, for
            the points where the authors' code differs from the paper.
        configurations: further configurations, each with a name and the parameters that it changes.
        seeds: random seeds; the tables give mean and standard deviation over them.
        base: parameters of the pipeline. Configurations that differ only by settings equal to these are equal.

    Returns:
        One item per run: its ``name``, ``seed`` and ``parameters``, and the names of the table ``rows`` that it fills.

    Raises:
        MofeError: a table, a configuration or a seed is invalid.
    """
    seeds = [int(seed) for seed in seeds]  # Kubeflow passes numbers as floats
    if not seeds or len(set(seeds)) < len(seeds):
        raise MofeError(f"seeds = {seeds}: give at least one seed, and each seed once")
    base = checked(base)
    runs: dict[str, dict[str, Any]] = {}
    for row in (row for table in requested(tables, configurations) for row in table.rows):
        settings = {name: value for name, value in row.settings.items() if base.get(name) != value}
        run = runs.setdefault(name_of(settings), {"parameters": {**base, **settings}, "rows": []})
        if (row_name := name_of(row.settings)) not in run["rows"]:
            run["rows"].append(row_name)
    return [{"name": name, "seed": seed, **run} for seed in seeds for name, run in runs.items()]
