"""Measure on a GPU: forward pass and training step against the dense vision transformer, and nearest neighbours.

    python benchmarks/gpu.py [--quick]

ViT-B/14 at 224 in bfloat16, random weights, with the settings of finetune. A share is relative to the speed of the same
GPU in large matrix products, which is measured before and after the models. Without a GPU the script measures and
writes nothing, so that the page keeps earlier figures.
"""

import itertools
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from knn_scoring import EXPERTS, together
from side_by_side import Table, Target, alternately, options, ratio, write
from torch.utils.flop_counter import FlopCounterMode
from training_step import CLASSES, SEED, batch_of, models, synchronise, work_of

from mofe.detection.knn import ExpertKNN

BACKBONE, COUNTS, IMAGENET = "vit_base_patch14_dinov2", (2, 7, 16), 1_281_167
NO_GPU = "this machine has no GPU: nothing is measured, and the earlier figures stay unchanged\n\n**Targets**: none"


def matrix_peak(width: int = 8192, seconds: float = 2.0) -> float:
    """Floating-point operations per second in large matrix products of random numbers in bfloat16."""
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
    """Number of times that the host waits for the GPU during some work, without the wait for its end."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        work()
        torch.cuda.set_sync_debug_mode("default")
    return sum("called a synchronizing" in str(warning.message) for warning in seen)


def operations_of(work: Callable[[], None]) -> int:
    """Number of floating-point operations of some work, without those of kernels made by torch.compile."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def networks(size: int, rounds: int) -> dict[tuple[str, bool, str], dict[str, float]]:
    """Measure each model, compiled or not, in a forward pass and in a training step."""
    batch, found, peak = batch_of(size, 224), {}, matrix_peak()
    for compiled, counts in ((False, COUNTS), (True, (7,))):
        for name, model in models(BACKBONE, 224, counts):
            for what, work in zip(("forward", "training step"), work_of(model, batch, "bf16", compiled), strict=True):
                torch.use_deterministic_algorithms(what == "training step")  # only finetune sets this
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
        one["share"] = one["operations"] / one["seconds"] / peak
    return found


def neighbours(count: int, width: int, ks: tuple[int, ...], rounds: int) -> list[Any]:
    """Measure queries/s inside the experts and over everything on the GPU, and inside the experts on the CPU."""
    bank_ND, experts_N = together(count, width, 1)
    queries_BD, routes_B = together(1024, width, 2)
    within, everything = ExpertKNN.build(bank_ND, experts_N, 1), ExpertKNN.build(bank_ND, None, 1)
    on_cpu = ExpertKNN(within.indexes, 1, torch.device("cpu"))
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
    """Measure, print and write the figures."""
    given = options(__doc__ or "")
    if not torch.cuda.is_available():
        print(NO_GPU)
        return
    torch.utils.deterministic.fill_uninitialized_memory = False
    size, rounds, banks = 256, 10, (100_000, IMAGENET)
    if given.quick:
        size, rounds, banks = 16, 2, (4000,)
    measured = networks(size, rounds)
    rows = [
        (f"{name}{', compiled' * compiled}", what, one["speed"], one["cost"], one["share"], one["memory"], one["waits"],
         one["first"] if compiled else None)
        for (name, compiled, what), one in measured.items()
    ]  # fmt: skip
    of_banks = [row for count in banks for row in neighbours(count, 768, (50, 1000), 2)]
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
    tables = [
        Table(f"{BACKBONE} at 224, batches of {size}, bfloat16",
              ("", "", "images/s", "time, dense = 1", "share of the matrix peak", "memory, GB", "waits",
               "first call, s"), rows),
        Table(f"Neighbours, {EXPERTS} experts, 768 features",
              ("known images", "k", "queries at once", "in the expert, queries/s", "over everything, on the same GPU",
               "in the expert, on the CPU", "times as fast as over everything", "score off the CPU's"), of_banks),
    ]  # fmt: skip
    notes = [
        "Compiled is the trunk, as the stages do it where 100,000 images or more are trained on, or a million looked "
        "at: block by block for forward passes, so that one block's program serves all, here the second model too; as "
        "one for training. Shares of compiled models are of the operations that the same model does uncompiled.",
    ]
    write("gpu", given, tables, targets, notes, seed=SEED, rounds=rounds, classes=CLASSES)


if __name__ == "__main__":
    main()
