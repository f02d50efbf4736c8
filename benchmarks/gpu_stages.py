"""Measure on a GPU: images per second of extract and finetune, from JPEGs to files, against the network alone.

    python benchmarks/gpu_stages.py [--quick]

ViT-B/14 at 224 in bfloat16 with random weights, batches of 256, JPEGs of ImageNet's size (500 × 375). The figures leave
out start and compilation: they count the last three quarters of extract's batches, and of the steps of finetune's
second epoch. The upper limit of the loader is measured by as many processes as cores that only decode and transform.
Without a GPU the script measures and writes nothing.
"""

import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from gpu import BACKBONE, IMAGENET, NO_GPU
from image_loading import FORK, write_jpegs
from side_by_side import Table, Target, alternately, options, write
from training_step import SEED, batch_of, models, work_of

from mofe import device
from mofe.artifacts.image_shards import ImageShards
from mofe.data.loader import ShardDataset, Transform, evaluation_transform, training_transform
from mofe.data.malloc import keep_freed_memory
from mofe.models.backbone import describe_backbone
from mofe.stages import extract as stage
from mofe.stages.finetune import finetune
from mofe.stages.partition import partition
from mofe.stages.prepare import prepare
from mofe.training import loop

BATCH = 256


def network_alone(rounds: int) -> dict[str, float]:
    """Images per second of extract's forward pass and of finetune's training step, without loading."""
    batch, speeds = batch_of(BATCH, 224), {}
    for compiled, (what, experts) in itertools.product(("", ", compiled"), (("forward", 1), ("training step", 7))):
        (model,) = (m for n, m in models(BACKBONE, 224, (experts,)) if n != "dense")
        work = work_of(model, batch, "bf16", bool(compiled))[what != "forward"]
        torch.use_deterministic_algorithms(what != "forward")
        speeds[what + compiled] = BATCH / statistics.median(alternately({"": work}, rounds)[""])
    torch.use_deterministic_algorithms(False)
    torch.cuda.empty_cache()
    return speeds


def jpegs(folder: Path, count: int, size: tuple[int, int]) -> Path:
    """Write class folders of JPEGs, with one process per core."""
    parts = [folder / str(i) for i in range(os.cpu_count() or 1)]
    with ProcessPoolExecutor(len(parts)) as pool:
        list(pool.map(write_jpegs, parts, [count // len(parts)] * len(parts), [size] * len(parts)))
    for part in parts:
        for file in part.rglob("*.jpg"):
            target = folder / "all" / file.parent.name / f"{part.name}-{file.name}"
            target.parent.mkdir(parents=True, exist_ok=True)
            file.rename(target)
    return folder / "all"


def decoded(images: str, transform: Transform, seed: int | None, positions: range) -> None:
    """Load images as a loader process does, without sending them to another process."""
    torch.set_num_threads(1)
    keep_freed_memory()
    dataset = ShardDataset(ImageShards(images), transform, seed)
    for start in range(positions.start, positions.stop, BATCH):
        dataset.__getitems__(range(start, min(start + BATCH, positions.stop)))


def loaders_alone(images: str, count: int, transform: Transform, seed: int | None) -> float:
    """Images per second that all cores decode and transform."""
    cores = os.cpu_count() or 1
    parts = [range(i * count // cores, (i + 1) * count // cores) for i in range(cores)]
    with ProcessPoolExecutor(cores, FORK) as pool:
        list(pool.map(partial(decoded, images, transform, seed), [range(BATCH)] * cores))  # starts all processes
        started = time.perf_counter()
        list(pool.map(partial(decoded, images, transform, seed), parts))
        return count / (time.perf_counter() - started)


def stamping(function: Callable[..., float], stamps: list[float]) -> Callable[..., float]:
    """Wrap a function so that the time of each call is appended to ``stamps``."""

    def stamped(*args: Any) -> float:
        stamps.append(time.perf_counter())
        return function(*args)

    return stamped


def stamping_each(function: Callable[..., Iterator[Any]], stamps: list[float]) -> Callable[..., Iterator[Any]]:
    """Wrap a generator function so that the time of each value is appended to ``stamps``."""

    def stamped(*args: Any, **named: Any) -> Iterator[Any]:
        for one in function(*args, **named):
            stamps.append(time.perf_counter())
            yield one

    return stamped


def speed_of(stamps: list[float]) -> float:
    """Images per second in the last three quarters of the batches."""
    counted = stamps[len(stamps) // 4 :]
    return BATCH * (len(counted) - 1) / (counted[-1] - counted[0])


def stages(count: int, size: tuple[int, int], alone: dict[str, float]) -> list[Any]:
    """Measure the stages: images/s, and its share of the speed of the network alone."""
    rows: list[Any] = []
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        images, features, classes = (str(folder / name) for name in ("images", "features", "classes"))
        prepare(str(jpegs(folder / "jpegs", count, size)), images, name="benchmark", role="train")
        cores = os.cpu_count() or 1
        spec = describe_backbone(BACKBONE, {"img_size": 224}, "random").preprocessing
        evaluation, training = evaluation_transform(spec), training_transform(spec, "randaugment")
        rows.append(("decoding for extract alone", cores, loaders_alone(images, count, evaluation, None), None))
        for workers, compiled in *((n, "") for n in sorted({4, cores})), (cores, ", compiled"):
            device.COMPILED_FROM = 0 if compiled else 1 << 62
            stamps: list[float] = []
            with patch.object(stage, "embed_shards", stamping_each(stage.embed_shards, stamps)):
                stage.extract(images, features, backbone=BACKBONE, backbone_args={"img_size": 224}, weights="random",
                              batch_size=BATCH, num_workers=workers)  # fmt: skip
            speed = speed_of(stamps)
            rows.append((f"extract{compiled}", workers, speed, speed / alone[f"forward{compiled}"]))
        partition(features, classes, num_experts=7, strategy="kmeans++")
        rows.append(("decoding for finetune alone", cores, loaders_alone(images, count, training, SEED), None))
        for compiled in ("", ", compiled"):
            device.COMPILED_FROM = 0 if compiled else 1 << 62
            stamps = []
            with patch.object(loop, "learning_rate", stamping(loop.learning_rate, stamps)):  # called once a step
                finetune(
                    images, features, classes, str(folder / "model"), str(folder / "history"), epochs=2,
                    warmup_epochs=1.0, probe_epochs=1, batch_size=BATCH, micro_batch_size=BATCH,
                    augmentation="randaugment", num_workers=cores,
                )  # fmt: skip
            speed = speed_of(stamps[len(stamps) // 2 : -1])  # the last call comes after the epoch
            rows.append((f"finetune{compiled}", cores, speed, speed / alone[f"training step{compiled}"]))
    return rows


def main() -> None:
    """Measure, print and write the figures."""
    given = options(__doc__ or "")
    if not torch.cuda.is_available():
        print(NO_GPU)
        return
    torch.utils.deterministic.fill_uninitialized_memory = False
    images, size, rounds = (4096, (64, 48), 2) if given.quick else (24_576, (500, 375), 5)
    alone = network_alone(rounds)
    rows = stages(images, size, alone)
    extracting = max((row for row in rows if row[0].startswith("extract")), key=lambda row: row[2])
    training = max((row for row in rows if row[0].startswith("finetune")), key=lambda row: row[2])
    decoding = {row[0].split()[2]: row[2] for row in rows if row[3] is None}
    tables = [
        Table(f"{images:,} JPEGs of {size[0]} × {size[1]}, {BACKBONE}",
              ("", "loader processes", "images/s", "of the network alone"), rows),
        Table("ImageNet-1K, extrapolated from these", ("", "hours on one such GPU and machine"),
              [("extract, and index again", IMAGENET / extracting[2] / 3600),
               ("finetune, an epoch", IMAGENET / training[2] / 3600),
               ("finetune, 40 epochs", 40 * IMAGENET / training[2] / 3600)]),
    ]  # fmt: skip
    targets = []
    for what, row, of_network in (("extract", extracting, 0.9), ("finetune", training, 0.9)):
        name, _, speed, share = row
        bound = speed / decoding[what]
        targets.append(Target(f"{name}, from JPEGs to files", f"≥ {of_network:.0%} of the network alone",
                              f"{share:.0%} ({bound:.0%} of what the cores decode)", share >= of_network))  # fmt: skip
    notes = [
        "The loader's processes share the cores with the process that feeds the GPU.",
        "The library compiles the trunk where 100,000 images are trained on, or a million looked at; here, at once.",
    ]
    write("gpu_stages", given, tables, targets, notes, seed=SEED, batch=BATCH, rounds=rounds)


if __name__ == "__main__":
    main()
