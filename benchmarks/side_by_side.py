"""Shared parts of the benchmarks against peers: timing, memory, the machine's description, and the results' file.

Each benchmark is a script, with ``--quick`` for sizes that only show that it runs. Work is timed in alternation (ours,
theirs, ours, theirs, …), so that other load on the machine slows both. A ratio is the median over rounds of their time
to our time in the same round.
"""

import argparse
import gc
import json
import multiprocessing
import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

Name = TypeVar("Name")

RESULTS = Path(__file__).parent / "results"
PACKAGES = (
    "torch", "torchcodec", "torchvision", "timm", "numpy", "scikit-learn", "faiss-cpu", "pyarrow", "pillow", "kfp",
    "pytorch-ood", "webdataset", "datasets",
)  # fmt: skip


class Table(NamedTuple):
    """A table of words and numbers for the page."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str | int | float | None]]


class Target(NamedTuple):
    """A target, and the measurement."""

    what: str
    wanted: str
    measured: str
    holds: bool | None
    """None if it was not measured."""


def options(text: str) -> argparse.Namespace:
    """The command line of a benchmark: ``--quick``, ``--out``."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="sizes that only show that it runs; writes no results")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the JSON file")
    return parser.parse_args()


def alternately(work: Mapping[Name, Callable[[], Any]], rounds: int) -> dict[Name, list[float]]:
    """Seconds of each piece of work in each round, after one call of each to warm up."""
    for piece in work.values():
        piece()
    seconds: dict[Name, list[float]] = {name: [] for name in work}
    gc.disable()  # a collection would add to the time of one piece of work
    try:
        for turn in range(rounds):
            for name in list(work)[:: 1 if turn % 2 == 0 else -1]:
                started = time.perf_counter()
                work[name]()
                seconds[name].append(time.perf_counter() - started)
    finally:
        gc.enable()
    return seconds


def ratio(theirs: Sequence[float], ours: Sequence[float]) -> float:
    """Ratio of their time to ours: the median over the rounds."""
    return statistics.median(t / o for t, o in zip(theirs, ours, strict=True))


def alone(function: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    """Call a function in a separate process; return its result and the peak memory of the process in GB."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_with_peak, (function, *arguments))


def _with_peak(function: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    result = function(*arguments)
    return result, int(status("VmHWM")) / 1e6


def status(field: str) -> str:
    """A field of this process's status, such as VmRSS or VmHWM in kB (Linux)."""
    found = re.search(rf"{field}:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found, field
    return found[1]


def write(
    name: str,
    given: argparse.Namespace,
    tables: Sequence[Table],
    targets: Sequence[Target],
    notes: Sequence[str] = (),
    **settings: Any,
) -> None:
    """Print the tables and targets; without ``--quick``, also write them and the machine's description to a file.

    Args:
        name: name of the benchmark and of the file ``NAME.json``.
        given: parsed command line.
        tables: measurements.
        targets: targets, and whether they hold.
        notes: sentences for the page below the tables.
        settings: sizes, seeds and numbers of rounds.
    """
    for table in tables:
        print(f"\n{markdown(table)}")
    predictions = {True: "holds", False: "does not hold", None: "not measured"}
    rows = [(target.what, target.wanted, target.measured, predictions[target.holds]) for target in targets]
    goals = Table("Targets", ("", "wanted", "measured", ""), rows)
    print(f"\n{markdown(goals)}\n")
    print(*notes, sep="\n")
    if given.quick:
        return
    content = {
        "name": name,
        "machine": machine(),
        "versions": versions(),
        "settings": settings,
        "tables": [table._asdict() for table in [*tables, goals]],
        "notes": notes,
    }
    given.out.mkdir(parents=True, exist_ok=True)
    partial = given.out / f".{name}.json"
    partial.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    partial.rename(given.out / f"{name}.json")


def markdown(table: Table) -> str:
    """Format a table as Markdown."""
    lines = [table.columns, ["---"] * len(table.columns), *table.rows]
    return f"**{table.title}**\n\n" + "\n".join("| " + " | ".join(map(_shown, line)) + " |" for line in lines)


def _shown(value: Any) -> str:
    if value is None:
        return "not measured"
    if not isinstance(value, float):
        return str(value)
    digits = 0 if abs(value) >= 100 else 2 if abs(value) >= 0.1 else 4
    return f"{value:.{digits}f}"


def machine() -> dict[str, str]:
    """Description of this machine."""
    import torch

    cpu = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": f"{cpu[1] if cpu else platform.machine()} ({torch.backends.cpu.get_cpu_capability()})",
        "cores": str(len(os.sched_getaffinity(0))),
        "threads": f"{torch.get_num_threads()} of torch",
        "memory": f"{memory / 1e9:.0f} GB",
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "load": f"{os.getloadavg()[0]:.1f} at the end (others may have used the machine)",
    }


def versions() -> dict[str, str]:
    """Versions of our own and the peers' packages."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found
