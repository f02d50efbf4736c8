"""On a GPU: images a second through extract and finetune, from JPEGs to files, against the network alone.

    python benchmarks/gpu_stages.py [--quick]

ViT-B/14 at 224 in bfloat16 with random weights, batches of 256, JPEGs of ImageNet's size (500 × 375). What extract
takes for one batch is taken off what it takes for all, so that its start does not count; of finetune the second epoch
counts, with the start of its loader and without the validation. Without a GPU nothing is measured and nothing written.
"""

import os
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from gpu import BACKBONE, IMAGENET, NO_GPU
from image_loading import write_jpegs
from side_by_side import Table, Target, alternately, options, write
from training_step import SEED, batch_of, models, work_of

from mofe.artifacts.model import History
from mofe.stages.extract import extract
from mofe.stages.finetune import finetune
from mofe.stages.partition import partition
from mofe.stages.prepare import prepare
from mofe.storage import resolve
from mofe.training import loop

BATCH = 256


def network_alone(rounds: int) -> dict[str, float]:
    """Images a second of a forward pass as extract makes it, and of training steps as finetune does."""
    batch, speeds = batch_of(BATCH, 224), {}
    for name, compiled in (("forward", False), ("training step", False), ("training step, compiled", True)):
        (model,) = (m for n, m in models(BACKBONE, 224, (1 if name == "forward" else 7,)) if n != "dense")
        work = work_of(model, batch, "bf16", compiled)[name != "forward"]
        torch.use_deterministic_algorithms(name != "forward")
        speeds[name] = BATCH / statistics.median(alternately({"": work}, rounds)[""])
    torch.use_deterministic_algorithms(False)
    torch.cuda.empty_cache()
    return speeds


def jpegs(folder: Path, count: int, size: tuple[int, int]) -> Path:
    """Class folders of JPEGs; as many processes as cores write a part each."""
    parts = [folder / str(i) for i in range(os.cpu_count() or 1)]
    with ProcessPoolExecutor(len(parts)) as pool:
        list(pool.map(write_jpegs, parts, [count // len(parts)] * len(parts), [size] * len(parts)))
    for part in parts:
        for file in part.rglob("*.jpg"):
            target = folder / "all" / file.parent.name / f"{part.name}-{file.name}"
            target.parent.mkdir(parents=True, exist_ok=True)
            file.rename(target)
    return folder / "all"


def stages(count: int, size: tuple[int, int], alone: dict[str, float]) -> list[Any]:
    """Images/s, and the share of the network's alone."""
    rows = []
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        images, features, classes, history = (
            str(folder / name) for name in ("images", "features", "classes", "history")
        )
        prepare(str(jpegs(folder / "jpegs", count, size)), images, name="benchmark", role="train")
        cores = os.cpu_count() or 1
        for workers in sorted({4, cores // 2, cores}):
            seconds = []
            for shards in (count // BATCH, 1):  # one batch, then all
                started = time.perf_counter()
                extract(images, features, backbone=BACKBONE, backbone_args={"img_size": 224}, weights="random",
                        batch_size=BATCH, num_workers=workers, shards=shards)  # fmt: skip
                seconds.append(time.perf_counter() - started)
            speed = (count - BATCH) / (seconds[1] - seconds[0])
            rows.append(("extract", workers, speed, speed / alone["forward"]))
        partition(features, classes, num_experts=7, strategy="kmeans++")
        for compiled in ("", ", compiled"):
            loop.COMPILED_FROM = 0 if compiled else 1 << 62
            finetune(
                images, features, classes, str(folder / "model"), history, epochs=2, probe_epochs=1,
                batch_size=BATCH, micro_batch_size=BATCH, augmentation="randaugment", num_workers=cores,
            )  # fmt: skip
            speed = History.read(resolve(history)).epochs[-1].images_per_second
            rows.append((f"finetune{compiled}", cores, speed, speed / alone[f"training step{compiled}"]))
    return rows


def main() -> None:
    """Measure, print, write."""
    given = options(__doc__ or "")
    if not torch.cuda.is_available():
        print(NO_GPU)
        return
    torch.utils.deterministic.fill_uninitialized_memory = False
    images, size, rounds = (1024, (64, 48), 2) if given.quick else (8192, (500, 375), 5)
    alone = network_alone(rounds)
    rows = stages(images, size, alone)
    extracting = max((row for row in rows if row[0] == "extract"), key=lambda row: row[2])
    training = max(row[2] for row in rows if row[0] != "extract")
    tables = [
        Table(f"{images:,} JPEGs of {size[0]} × {size[1]}, {BACKBONE}",
              ("", "loader processes", "images/s", "of the network alone"), rows),
        Table("ImageNet-1K, extrapolated from these", ("", "hours on one such GPU and machine"),
              [("extract, and index again", IMAGENET / extracting[2] / 3600),
               ("finetune, an epoch", IMAGENET / training / 3600),
               ("finetune, 40 epochs", 40 * IMAGENET / training / 3600)]),
    ]  # fmt: skip
    targets = [Target("extract keeps the network busy", "≥ 90 % of the network alone", f"{extracting[3]:.0%}",
                      extracting[3] >= 0.9)]  # fmt: skip
    notes = ["The loader's processes share the cores with the process that feeds the GPU."]
    write("gpu_stages", given, tables, targets, notes, seed=SEED, batch=BATCH, rounds=rounds)


if __name__ == "__main__":
    main()
