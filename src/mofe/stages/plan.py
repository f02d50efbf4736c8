"""Which runs a comparison consists of."""

from typing import Any

from mofe.ablations import name_of, requested
from mofe.errors import MofeError


def plan(tables: list[str], configurations: list[dict[str, Any]], seeds: list[int]) -> list[dict[str, Any]]:
    """List the runs that some tables need: every configuration with every seed, those of several tables once.

    Args:
        tables: of the paper: 1-3, 4 (components), 5 (number of experts), 6 (grouping), 7 (Mixup); or code, where the
            authors' code departs from the paper.
        configurations: further ones, each a name and the parameters it changes.
        seeds: of everything random; the tables give mean and standard deviation over them.

    Returns:
        For each run its ``name``, ``seed`` and ``settings``.
    """
    seeds = [int(seed) for seed in seeds]  # Kubeflow hands numbers on as floats
    if not seeds or len(set(seeds)) < len(seeds):
        raise MofeError(f"seeds = {seeds}: give at least one, and each once")
    rows = [row for table in requested(tables, configurations) for row in table.rows]
    by_name = {name_of(row.settings): row.settings for row in rows}
    return [{"name": name, "seed": seed, "settings": settings} for seed in seeds for name, settings in by_name.items()]
