"""Search learning rate, w, and Reg with its weight, on the validation split of the training images only.

    python experiments/search_recipe.py --data DIR

It changes one parameter after the other, starting from the best recipe so far. The criterion is the validation accuracy
after the last epoch, mean over the seeds. No test image and no OOD image is read. Prints a table, and writes it to
experiments/results/search-recipe.json.
"""

import argparse
import json
from pathlib import Path
from statistics import fmean
from typing import Any

from photographs import BACKBONES, HERE, machine, parameters

from mofe.artifacts.model import History
from mofe.runners.digests import stage_digest
from mofe.stages.extract import extract
from mofe.stages.finetune import finetune
from mofe.stages.partition import partition
from mofe.stages.prepare import prepare

START = {"learning_rate": 1e-3, "mixup_scale": 0.9, "regulariser": "label-smoothing", "regulariser_weight": 0.1}
TRIALS: list[dict[str, Any]] = [
    *({"learning_rate": rate} for rate in (5e-4, 2e-3, 4e-3, 8e-3)),
    *({"mixup_scale": scale} for scale in (0.25, 0.5, 0.75)),
    {"regulariser": "none"},
    {"regulariser": "l2", "regulariser_weight": 1e-3},
]
MEASURED = ("validation_accuracy", "router_accuracy")
OF_FINETUNE = (
    "probe_epochs", "epochs", "warmup_epochs", "batch_size", "micro_batch_size", "learning_rate", "mixup_scale",
    "regulariser", "regulariser_weight", "augmentation", "validation_fraction", "num_workers",
)  # fmt: skip


def main() -> None:
    """Search, print the table, and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of id-train.parquet")
    parser.add_argument("--backbone", choices=BACKBONES, default="photograph-vit")
    parser.add_argument("--every", type=int, default=7, help="take every n-th ID class")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--work", type=Path, default=Path("runs/search-recipe"))
    options = parser.parse_args()

    given = parameters(options.data.resolve(), options.work.resolve(), options.backbone, options.every)
    place = {name: str(options.work / name) for name in ("images", "features", "partition")}
    limit = given["train_images_per_class"]
    prepare(given["train_data"], place["images"], name="train", role="train", images_per_class=limit)
    architecture = {name: given[name] for name in ("backbone", "backbone_args", "weights", "num_workers")}
    extract(place["images"], place["features"], **architecture)
    partition(place["features"], place["partition"], num_experts=given["num_experts"])

    notes = options.work / "measured.json"  # a stopped search continues from here
    measured_before: dict[str, dict[str, float]] = json.loads(notes.read_text()) if notes.is_file() else {}

    def measure_once(recipe: dict[str, Any], seed: int) -> dict[str, float]:
        key = json.dumps({**recipe, "seed": seed, "code": stage_digest("finetune", "train")}, sort_keys=True)
        if key not in measured_before:
            history, kept = str(options.work / "history"), str((options.work / "kept").resolve())
            finetune(*place.values(), str(options.work / "model"), history, seed=seed, checkpoints=kept, **recipe)
            last = History.read(history).epochs[-1]
            measured_before[key] = {name: getattr(last, name) for name in MEASURED}
            notes.write_text(json.dumps(measured_before, indent=1))
        return measured_before[key]

    def measure(recipe: dict[str, Any]) -> dict[str, float]:
        found = [measure_once(recipe, seed) for seed in options.seeds]
        return {name: fmean(one[name] for one in found) for name in MEASURED}

    best = {**{name: given[name] for name in OF_FINETUNE if name in given}, **START}
    measured = [{"change": {}, **measure(best)}]
    highest = measured[0]["validation_accuracy"]
    for change in TRIALS:
        measured.append({"change": change, **measure({**best, **change})})
        if measured[-1]["validation_accuracy"] > highest:
            highest, best = measured[-1]["validation_accuracy"], {**best, **change}
    for row in measured:
        changed = ", ".join(f"{name} = {value}" for name, value in row["change"].items()) or "start"
        print(f"{changed:50} validation {row['validation_accuracy']:.2%}  router {row['router_accuracy']:.2%}")
    file = HERE / "results" / "search-recipe.json"
    file.parent.mkdir(exist_ok=True)
    report = {"best": best, "trials": measured, "seeds": options.seeds, "machine": machine()}
    file.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
