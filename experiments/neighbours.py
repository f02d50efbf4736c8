"""Measure a pre-trained backbone: the accuracy of its 20 nearest neighbours on the ID classes.

    python experiments/neighbours.py --data DIR

It measures both backbones on every n-th of the 100 ID classes, for several n. experiments/tiny_imagenet.py uses the
first n at which the better backbone exceeds one half. Reads no OOD image.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from photographs import BACKBONES, parameters
from sklearn.neighbors import KNeighborsClassifier

from mofe.artifacts.image_shards import ImageShards
from mofe.inference.embedding import EmbedOptions, create_pretrained, embed_shards
from mofe.models.backbone import describe_backbone
from mofe.stages.prepare import prepare


def embeddings(given: dict[str, Any], role: str, work: Path) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings (N, D) of the training or test images by the pre-trained backbone, and their labels (N,)."""
    limit = given["train_images_per_class"] if role == "train" else 0
    place = str(work / role)
    prepare(given[f"{role}_data"], place, name=role, role=role, images_per_class=limit)
    spec = describe_backbone(given["backbone"], given["backbone_args"], given["weights"])
    shards = ImageShards(place)
    options = EmbedOptions(spec.preprocessing, 256, given["num_workers"], "fp32")
    batches = embed_shards([create_pretrained(spec, shards.info.classes)], shards, options, label=role)
    parts = [(output.embedding_BD.numpy(), labels_B) for _, labels_B, (output,), _ in batches]
    embedded, labels = zip(*parts, strict=True)
    return np.concatenate(embedded), np.concatenate(labels)


def neighbours_accuracy(train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray]) -> float:
    """Accuracy of a vote of the 20 nearest training images by cosine, with equal weights."""
    return float(KNeighborsClassifier(20, metric="cosine").fit(*train).score(*test))


def main() -> None:
    """Measure and print the accuracies."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of id-train.parquet and id-test.parquet")
    parser.add_argument("--every", type=int, nargs="+", default=[1, 4, 5, 6, 7])
    parser.add_argument("--work", type=Path, default=Path("runs/neighbours"))
    options = parser.parse_args()
    for backbone in BACKBONES:
        given = parameters(options.data.resolve(), options.work.resolve(), backbone, every=1)
        sets = [embeddings(given, role, options.work) for role in ("train", "test")]
        for every in options.every:
            thinned = [(z[labels % every == 0], labels[labels % every == 0]) for z, labels in sets]
            classes = len(np.unique(thinned[0][1]))
            print(f"{backbone}: {neighbours_accuracy(*thinned):.1%} of {classes} classes", flush=True)


if __name__ == "__main__":
    main()
