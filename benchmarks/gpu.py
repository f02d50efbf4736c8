"""On a GPU: forward pass and training step against the dense vision transformer, stages end to end, neighbours.

    python benchmarks/gpu.py [--quick]

ViT-B/14 at 224 in bfloat16, random weights, under the settings that finetune trains with; shares are of what the same
GPU reaches in large products of matrices, half of them before the models and half after. Without a GPU nothing is
measured and nothing written, so that the page keeps what was measured where there was one.
"""

import itertools
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from image_loading import write_jpegs
from knn_scoring import EXPERTS, together
from side_by_side import Table, Target, alternately, options, ratio, write
from torch.utils.flop_counter import FlopCounterMode
from training_step import CLASSES, SEED, batch_of, models, synchronise, work_of

from mofe.artifacts import History
from mofe.detection.knn import ExpertKNN
from mofe.stages.extract import extract
from mofe.stages.finetune import finetune
from mofe.stages.partition import partition
from mofe.stages.prepare import prepare
from mofe.storage import resolve
from mofe.training import loop

BACKBONE, COUNTS, IMAGENET = "vit_base_patch14_dinov2", (2, 7, 16), 1_281_167


def matrix_peak(width: int = 8192, seconds: float = 2.0) -> float:
    """Floating point operations a second in large products of matrices, bfloat16, of random numbers."""
    a, b = (torch.randn(width, width, device="cuda", dtype=torch.bfloat16) for _ in "ab")
    for _ in range(5):
        a @ b
    synchronise()
    started, done = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        for _ in range(20):
            a @ b
        synchronise()
        done += 20
    return done * 2 * width**3 / (time.perf_counter() - started)


def waits(work: Callable[[], None]) -> int:
    """How often the host waits for the GPU in a piece of work; the wait for its end apart."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        work()
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing" in str(warning.message) for warning in seen)


def operations_of(work: Callable[[], None]) -> int:
    """Floating point operations of a piece of work; those of kernels that torch.compile made are not counted."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def networks(size: int, rounds: int) -> dict[tuple[str, bool, str], dict[str, float]]:
    """What was measured of a model, compiled or not, in a forward pass and in a training step."""
    batch, found, peak = batch_of(size, 224), {}, matrix_peak()
    for compiled, counts in ((False, COUNTS), (True, (7,))):
        for name, model in models(BACKBONE, 224, counts):
            torch._dynamo.reset()
            for what, work in zip(("forward", "training step"), work_of(model, batch, "bf16", compiled), strict=True):
                torch.use_deterministic_algorithms(what == "training step")  # as finetune does, and no other stage
                started = time.perf_counter()
                work()
                first = time.perf_counter() - started
                operations = found[name, False, what]["operations"] if compiled else operations_of(work)
                torch.cuda.reset_peak_memory_stats()
                seconds = statistics.median(alternately({"": work}, rounds)[""])
                found[name, compiled, what] = {
                    "seconds": seconds,
                    "speed": size / seconds,
                    "cost": seconds / found["dense", compiled, what]["seconds"] if name != "dense" else 1.0,
                    "operations": operations,
                    "memory": torch.cuda.max_memory_allocated() / 1e9,
                    "waits": waits(work),
                    "first": first,
                }
            torch.cuda.empty_cache()
    torch.use_deterministic_algorithms(False)
    peak = (peak + matrix_peak()) / 2
    for one in found.values():
        one["peak"] = peak
        one["share"] = one["operations"] / one["seconds"] / peak
    return found


def _jpegs(folder: Path, count: int, size: tuple[int, int]) -> None:
    """As many processes as cores write a part each."""
    parts = os.cpu_count() or 1
    with ProcessPoolExecutor(parts) as pool:
        list(pool.map(write_jpegs, [folder / str(i) for i in range(parts)], [count // parts] * parts, [size] * parts))
    for i in range(parts):
        for file in (folder / str(i)).rglob("*.jpg"):
            target = folder / "all" / file.parent.name / f"{i}-{file.name}"
            target.parent.mkdir(parents=True, exist_ok=True)
            file.rename(target)


def stages(
    count: int, size: tuple[int, int], network: dict[tuple[str, bool], float], backbone: dict[str, Any]
) -> list[Any]:
    """Images/s of extract and finetune with several numbers of loader processes, and share of the network's alone."""
    rows = []
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        _jpegs(folder / "jpegs", count, size)
        images, features, classes = str(folder / "images"), str(folder / "features"), str(folder / "partition")
        prepare(str(folder / "jpegs" / "all"), images, name="benchmark", role="train")
        cores = os.cpu_count() or 1
        for workers in sorted({4, cores // 2, cores}):
            seconds = []
            for shards in (count // 256, 1):  # one batch, then all: what they differ by is no start
                started = time.perf_counter()
                extract(
                    images, features, **backbone, weights="random", batch_size=256, num_workers=workers, shards=shards
                )
                seconds.append(time.perf_counter() - started)
            speed = (count - 256) / (seconds[1] - seconds[0])
            rows.append(("extract", workers, speed, speed / network["forward", False]))
        partition(features, classes, num_experts=7, strategy="kmeans++")
        for augmentation, compiled in itertools.product(("crop-flip", "randaugment"), (False, True)):
            loop.COMPILED_FROM = 0 if compiled else 1 << 62
            place = str(folder / "history")
            finetune(images, features, classes, str(folder / "model"), place, epochs=2, probe_epochs=1,
                     batch_size=256, micro_batch_size=256, augmentation=augmentation, num_workers=cores)  # fmt: skip
            speed = History.read(resolve(place)).epochs[-1].images_per_second
            what = f"finetune, {augmentation}{', compiled' * compiled}"
            rows.append((what, cores, speed, speed / network["training step", compiled]))
    return rows


def neighbours(count: int, width: int, ks: tuple[int, ...], rounds: int) -> list[Any]:
    """Queries/s in experts and over everything, both on the GPU, and in experts on this machine's CPU."""
    bank_ND, experts_N = together(count, width, 1)
    queries_BD, routes_B = together(1024, width, 2)
    within, everything = ExpertKNN.build(bank_ND, experts_N, 1), ExpertKNN.build(bank_ND, None, 1)
    on_cpu = ExpertKNN(within.indexes, 1)
    on_cpu.__dict__["_banks"] = [(bank.cpu(), ids.cpu()) for bank, ids in within._banks]
    torch.use_deterministic_algorithms(False)
    searches = {"within": within, "everything": everything, "on the CPU": on_cpu}
    rows = []
    for k, batch in itertools.product(ks, (128, 1024)):
        for knn in searches.values():
            knn.k = k
        chunks = [slice(start, start + batch) for start in range(0, 1024, batch)]

        def scores(knn: ExpertKNN, chunks: list[slice] = chunks) -> np.ndarray:
            return np.concatenate([knn.score(queries_BD[chunk], routes_B[chunk]) for chunk in chunks])

        seconds = alternately({name: lambda knn=knn: scores(knn) for name, knn in searches.items()}, rounds)
        speeds = [1024 / statistics.median(seconds[name]) for name in searches]
        off = float(np.abs(scores(within) - scores(on_cpu)).max())
        rows.append((f"{count:,}", k, batch, *speeds, ratio(seconds["everything"], seconds["within"]), f"{off:.0e}"))
    return rows


def main() -> None:
    """Measure, print, write."""
    given = options(__doc__ or "")
    if not torch.cuda.is_available():
        print(
            "there is no GPU here: nothing is measured, and what was measured elsewhere stays as it is\n\n**Targets**"
        )
        return
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    torch.utils.deterministic.fill_uninitialized_memory = False
    size, rounds, images, pixels, banks = 256, 10, 8192, (500, 375), (100_000, IMAGENET)
    if given.quick:
        size, rounds, images, pixels, banks = 16, 2, 512, (64, 48), (4000,)
    measured = networks(size, rounds)
    rows = [
        (f"{name}{', compiled' * compiled}", what, one["speed"], one["cost"], one["share"], one["memory"], one["waits"],
         one["first"] if compiled else None)
        for (name, compiled, what), one in measured.items()
    ]  # fmt: skip
    alone = {(what, compiled): one["speed"] for (name, compiled, what), one in measured.items() if name == "7 experts"}
    backbone = {"backbone": BACKBONE, "backbone_args": {"img_size": 224}}
    of_stages = stages(images, pixels, alone, backbone)
    of_banks = [row for count in banks for row in neighbours(count, 768, (50, 1000), 2)]
    extracting = max(row[2] for row in of_stages if row[0] == "extract")
    training = max(row[2] for row in of_stages if row[0].startswith("finetune, randaugment"))
    hours = [("extract, and index again", IMAGENET / extracting / 3600, None),
             ("finetune, an epoch", IMAGENET / training / 3600, None),
             ("finetune, 40 epochs", 40 * IMAGENET / training / 3600, None)]  # fmt: skip
    targets = []
    for what, wanted, most in (("forward", 0.5, 1.02), ("training step", 0.4, 1.15)):
        for compiled in (False, True):
            share = measured["7 experts", compiled, what]["share"]
            name = f"{what}, 7 experts{', compiled' * compiled}"
            targets.append(Target(name, f"≥ {wanted:.0%} of the matrix peak", f"{share:.0%}", share >= wanted))
        for count in COUNTS:
            cost = measured[f"{count} experts", False, what]["cost"]
            targets.append(Target(f"{what}, {count} experts", f"≤ {most} × dense", f"{cost:.3f} ×", cost <= most))
        waited = sorted({measured[f"{count} experts", False, what]["waits"] for count in COUNTS})
        times = " or ".join(f"{number} times" for number in waited)
        name = f"{what}, the host waits for the GPU"
        targets.append(Target(name, "as often with 2 experts as with 16", times, len(waited) == 1))
    fed = max(row[3] for row in of_stages if row[0] == "extract")
    targets.append(Target("extract: the loader keeps up", "≥ 90 % of the network alone", f"{fed:.0%}", fed >= 0.9))
    tables = [
        Table(f"{BACKBONE} at 224, batches of {size}, bfloat16",
              ("", "", "images/s", "time, dense = 1", "share of the matrix peak", "memory, GB", "waits",
               "first call, s"), rows),
        Table(f"Stages, {images:,} JPEGs of {pixels[0]} × {pixels[1]}",
              ("", "loader processes", "images/s", "of the network alone"), of_stages),
        Table(f"Neighbours, {EXPERTS} experts, 768 features",
              ("known images", "k", "queries at once", "in the expert, queries/s", "over everything, on the same GPU",
               "in the expert, on the CPU", "times as fast as over everything", "score off the CPU's"), of_banks),
        Table("ImageNet-1K, extrapolated from the stages above", ("", "hours on one such GPU", "measured"), hours),
    ]  # fmt: skip
    notes = [
        "Compiled is the trunk alone, as finetune does it from 100,000 images on; shares of compiled models are of the "
        "operations that the same model does uncompiled.",
        "Stages include the writing of what they make; finetune's epochs the validation, but not the first epoch.",
    ]
    write("gpu", given, tables, targets, notes, seed=SEED, rounds=rounds, classes=CLASSES)


if __name__ == "__main__":
    main()
