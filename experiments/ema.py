"""Measure on the validation split whether an exponential moving average of the weights helps.

    python experiments/search_recipe.py --data DIR      # run this first, because it writes images, features, partition
    python experiments/ema.py --data DIR

During one ordinary training, a hook on the optimiser keeps averages with several decays. Afterwards each average
replaces the model's weights and is measured on the validation images. Writes experiments/results/ema.json.
"""

import argparse
import json
from functools import partial
from pathlib import Path

import torch
from photographs import HERE, machine, parameters
from torch.optim.optimizer import register_optimizer_step_post_hook

from mofe.artifacts.features import Features
from mofe.artifacts.image_shards import ImageShards
from mofe.artifacts.partition import Partition
from mofe.artifacts.recipe import Recipe
from mofe.models.backbone import create_backbone
from mofe.models.mofe import MoFE
from mofe.stages.finetune import stored_embeddings
from mofe.training.loop import Trainer

FIELDS = Recipe.__dataclass_fields__
DECAYS = (0.9, 0.98, 0.99, 0.995)


def main() -> None:
    """Train once per seed, measure the weights and their averages, print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of id-train.parquet")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--work", type=Path, default=Path("runs/search-recipe"))
    options = parser.parse_args()
    given = parameters(options.data.resolve(), options.work.resolve(), "photograph-vit", 7)
    shards = ImageShards(options.work / "images")
    known = Features(options.work / "features")
    classes = Partition.read(options.work / "partition")

    rows = []
    for seed in options.seeds:
        recipe = Recipe(**{**{name: given[name] for name in FIELDS if name in given}, "seed": seed})
        torch.manual_seed(seed)
        model = MoFE(create_backbone(known.info.backbone, drop_path=recipe.drop_path), classes)
        names = dict(model.named_parameters())
        averages: dict[float, dict[str, torch.Tensor]] = {}

        def keep(names: dict[str, torch.nn.Parameter], averages: dict, optimiser: object, *_: object) -> None:  # type: ignore[type-arg]
            for decay in DECAYS:
                if decay not in averages:
                    averages[decay] = {name: p.detach().clone() for name, p in names.items()}
                for name, p in names.items():
                    averages[decay][name].lerp_(p.detach(), 1 - decay)

        trainer = Trainer(
            model=model, shards=shards, embeddings=partial(stored_embeddings, known),
            preprocessing=known.info.backbone.preprocessing, recipe=recipe, num_workers=given["num_workers"],
            precision="auto", checkpoints=None,
        )  # fmt: skip
        # the averages begin after the probe, because the probe has its own optimiser
        handles = []
        trainer.on_epoch = lambda epoch, names=names, averages=averages, handles=handles: (
            handles.append(register_optimizer_step_post_hook(partial(keep, names, averages)))
            if epoch.epoch == 0
            else None
        )
        trainer.train()
        handles[0].remove()
        labels = shards.labels_N[trainer.validation]
        own = {name: p.detach().clone() for name, p in names.items()}
        for decay, weights in {0.0: own, **averages}.items():
            model.load_state_dict(weights, strict=False)
            predicted, _ = trainer.predict_validation()
            rows.append({"seed": seed, "decay": decay, "validation_accuracy": float((predicted == labels).mean())})
            print(rows[-1], flush=True)
    file = HERE / "results" / "ema.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps({"rows": rows, "machine": machine()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
