"""Measure the pipeline's overhead: starting stages, a cached run, growth with images, experts and sets.

    python benchmarks/pipeline_overhead.py [--quick]

The run is a shortened ``make demo``. The overhead of a stage is its time in the run minus the time of its function in a
Python process that has imported it.
"""

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from side_by_side import Table, Target, options, write

from mofe.data.digits import write_digits
from mofe.partitioning.clusters import partition_classes
from mofe.stages import STAGES
from mofe.stages.evaluate import evaluate
from mofe.stages.partition import partition
from mofe.stages.prepare import prepare

ROOT = Path(__file__).parents[1]
TENSORS = ("extract", "texts", "finetune", "index", "score", "predict")
"""The stages that compute with tensors."""


def python(*arguments: str) -> tuple[float, str, str]:
    """Run a Python process; return its seconds, output and errors."""
    started = time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    return time.perf_counter() - started, done.stdout, done.stderr


def startup(stages: tuple[str, ...], rounds: int) -> list[Any]:
    """Measure the seconds to import each stage; also whether it imports torch, and its slowest packages."""
    rows = []
    for stage in stages:
        module = f"mofe.stages.{stage}"
        seconds = [python("-c", f"import {module}")[0] - python("-c", "")[0] for _ in range(rounds)]
        log = python("-X", "importtime", "-c", f"import {module}")[2]
        times = {name.strip(): int(us) / 1e6 for us, name in re.findall(r"\|\s+(\d+) \|(.*)", log)}
        packages = {name: s for name, s in times.items() if "." not in name and name != "mofe"}
        most = max(packages, key=lambda name: packages[name])
        rows.append((stage, statistics.median(seconds), "yes" if "torch" in times else "no", most, packages[most]))
    return rows


def seconds_of(function: Callable[..., Any], *arguments: Any, rounds: int = 3, **more: Any) -> float:
    """Median seconds of the calls; ``{}`` in an argument is replaced by the number of the call."""
    found = []
    for turn in range(rounds):
        given = {name: value.format(turn) if isinstance(value, str) else value for name, value in more.items()}
        started = time.perf_counter()
        function(*arguments, **given)
        found.append(time.perf_counter() - started)
    return statistics.median(found)


def run_and_again(work: Path, rounds: int) -> tuple[list[Any], list[Any]]:
    """Measure the seconds of a run and of its repetition, and the overhead of three stages over their functions."""
    write_digits(str(work / "digits"))
    near = {"dataset": "near", "uri": f"{work}/digits/near-ood"}
    settings = (f"train_data={work}/digits/train", f"test_data={work}/digits/test", f"ood_data=[{near}]", "epochs=1",
                "warmup_epochs=0.5", "probe_epochs=2", "train_images_per_class=20",
                "evaluation_images_per_class=10")  # fmt: skip
    command = ("-m", "mofe", "run", "-f", "examples/digits.yaml", "--work", f"{work}/run", "--set", *settings)
    first = python(*command)[0]
    again = [python(*command)[0] for _ in range(rounds)]

    (record, *_) = sorted((work / "run").glob("logs/*/run.json"))
    ran = {(e["stage"], e["label"]): e for e in json.loads(record.read_text())["executions"]}
    place = {stage: e["outputs"] for (stage, _), e in ran.items()}
    own = {
        ("prepare", "near"): seconds_of(
            prepare, near["uri"], images=f"{work}/bare-{{}}/images", name="near", role="ood", images_per_class=10
        ),
        ("partition", ""): seconds_of(
            partition, place["extract"]["features"], partition=f"{work}/bare-{{}}/partition", num_experts=3
        ),
    }
    rows = [(stage, ran[stage, label]["seconds"], bare, ran[stage, label]["seconds"] - bare)
            for (stage, label), bare in own.items()]  # fmt: skip
    return [("the first time", first), ("again, all cached", statistics.median(again))], rows


def growth(work: Path, counts: tuple[int, ...], experts: tuple[int, ...], sets: tuple[int, ...]) -> list[Any]:
    """Measure seconds at several sizes, and the slope of a line through them."""
    sys.path.append(str(ROOT / "tests"))
    from helpers import make_partition, striped, write_scores

    from mofe.artifacts.model import History
    from mofe.storage import writing

    rng = np.random.default_rng(0)
    folder = work / "images"
    folder.mkdir()
    by_images = []
    for count in counts:
        for i in range(len(list(folder.iterdir())), count):
            (folder / f"{i}.png").write_bytes(striped(i % 8, rng, size=64))
        by_images.append(
            seconds_of(prepare, str(folder), images=f"{work}/{count}-{{}}", name="n", role="ood", rounds=1)
        )

    z_CD = rng.standard_normal((1000, 64))
    names = [f"class{c}" for c in range(1000)]
    by_experts = [seconds_of(partition_classes, z_CD, names, e, "kmeans++", rounds=1) for e in experts]

    history = History(epochs=())
    for name, artifact in (("partition", make_partition([0, 1, 0])), ("history", history)):
        with writing.staged(work / name) as place:
            artifact.write(place)
    scores = [write_scores(work, "id-test", "test", 2)]
    scores += [write_scores(work, f"ood-{i}", "ood", 1) for i in range(max(sets))]
    by_sets = [
        seconds_of(evaluate, scores[: count + 1], str(work / "partition"), str(work / "history"),
                   metrics=f"{work}/m{count}-{{}}", roc=f"{work}/r{count}-{{}}", report=f"{work}/p{count}-{{}}.html",
                   rounds=1)
        for count in sets
    ]  # fmt: skip
    rows = []
    for what, sizes, seconds, unit in (
        ("prepare, images of 64 × 64", counts, by_images, "ms an image"),
        ("partition of 1000 classes, experts", experts, by_experts, "ms an expert"),
        ("evaluate, OOD sets of 300 images", sets, by_sets, "ms a set"),
    ):
        slope, start = np.polyfit(sizes, seconds, 1)
        shown = ", ".join(f"{size}: {s:.2f} s" for size, s in zip(sizes, seconds, strict=True))
        rows.append((what, shown, f"{1000 * slope:.3g} {unit}", float(start)))
    return rows


def main() -> None:
    """Measure, print and write the figures."""
    given = options(__doc__ or "")
    os.environ["PYTHONWARNINGS"] = "ignore"
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # with this variable, every start compiles the packages again
    stages, rounds = STAGES, 2
    counts, experts, sets = (500, 1000, 2000), (2, 8, 32), (1, 4, 8)
    if given.quick:
        stages, rounds, counts, experts, sets = ("plan_runs",), 1, (8, 16), (2, 4), (1, 2)
    started = startup(stages, rounds)
    with tempfile.TemporaryDirectory() as work:
        ran, overhead = ([], []) if given.quick else run_and_again(Path(work), rounds)
        grown = growth(Path(work), counts, experts, sets)
    heavy = [row[0] for row in started if row[2] == "yes" and row[0] not in TENSORS]
    again = ran[1][1] if ran else float("nan")
    targets = [
        Target("stages without tensors", "import no torch", ", ".join(heavy) or "none does", not heavy),
        Target("all cached", "≤ 2 s", f"{again:.2f} s", again <= 2 if ran else None),
    ]
    tables = [
        Table("Start of a stage, beyond Python's own", ("stage", "seconds", "imports torch", "most of it", "seconds"),
              started),
        Table("The demo, shortened: `mofe run`, everything included", ("", "seconds"), ran),
        Table("A stage in a run", ("stage", "in the run, s", "its function, s", "overhead, s"), overhead),
        Table("Growth", ("", "seconds", "slope", "at none, s"), grown),
    ]  # fmt: skip
    write("pipeline_overhead", given, tables, targets, rounds=rounds)


if __name__ == "__main__":
    main()
