"""Shared parts of the experiments on photographs: the data, the backbones, and the description of the machine.

The data is 100 classes of Tiny-ImageNet as ID, 40 others as near-OOD, and textures as far-OOD, in Parquet files of
Hugging Face's image schema: id-train, id-test, near-ood, far-ood (see docs/how-to/reproduce.md). ``every`` reduces the
ID classes: 7 takes every seventh class in the order of the file.
"""

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from mofe.artifacts.image_set import write_image_shards
from mofe.data.sources import open_source
from mofe.storage import writing

HERE = Path(__file__).parent
IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "crop_pct": 1.0}
BACKBONES: dict[str, dict[str, Any]] = {
    # made by experiments/pretrain_photographs.py
    "photograph-vit": {
        "backbone": "vit_tiny_r_s16_p8_224",
        "backbone_args": {
            "img_size": 64, "patch_size": 4, "depth": 6, "embed_dim": 192, "num_heads": 3,
            "pretrained_cfg_overlay": IMAGENET,
        },
        "weights": str(HERE / "photograph-vit.safetensors"),
    },
    # a plain transformer, trained for 16 epochs on the labels of the same 60 classes; not published, read from DATA
    "standin-vit": {
        "backbone": "vit_tiny_patch16_224",
        "backbone_args": {"img_size": 64, "patch_size": 8, "depth": 8, "pretrained_cfg_overlay": IMAGENET},
        "weights": "standin-vit.safetensors",
    },
}  # fmt: skip


def parameters(data: Path, work: Path, backbone: str, every: int) -> dict[str, Any]:
    """Parameters of the pipelines for a backbone, with every n-th ID class of the data (written into ``work``)."""
    chosen = dict(BACKBONES[backbone])
    if chosen["weights"] == Path(chosen["weights"]).name:
        chosen["weights"] = str(data / chosen["weights"])
    return {
        **yaml.safe_load((HERE / "photographs.yaml").read_text()),
        **chosen,
        "train_data": str(_thinned(data / "id-train.parquet", work / "data", every)),
        "test_data": str(_thinned(data / "id-test.parquet", work / "data", every)),
        "ood_data": [
            {"dataset": "near-ood", "uri": str(data / "near-ood.parquet")},
            {"dataset": "textures", "uri": str(data / "far-ood.parquet")},
        ],
    }


def _thinned(file: Path, folder: Path, every: int) -> Path:
    """Write the images of every n-th class to a folder of Parquet files; for 1, return the file itself."""
    if every == 1:
        return file
    place = folder / f"{file.stem}-every-{every}"
    if not place.exists():
        source = open_source(str(file))
        kept = {label: i for i, label in enumerate(range(0, len(source.classes), every))}
        names = [source.classes[label] for label in kept]
        with writing.staged(str(place)) as partial, write_image_shards(partial, names) as writer:
            for image in source.images():
                if image.label in kept:
                    writer.add(image.read(), image.path, kept[image.label])
    return place


def machine() -> dict[str, str]:
    """Description of the machine and of the versions of libraries."""
    import torch

    names = ("torch", "timm", "scikit-learn", "faiss-cpu", "kfp")
    return {
        "processor": f"{os.cpu_count()} × {platform.machine()}, {torch.backends.cpu.get_cpu_capability()}",
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "system": platform.platform(),
        "python": platform.python_version(),
        **{name: version(name) for name in names},
    }
