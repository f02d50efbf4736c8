"""Images through the model: the one code path by which extract, index, score and the detector embed."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Self

import numpy as np
import torch

from mofe.artifacts.backbone import Backbone, Preprocessing
from mofe.artifacts.image_shards import ImageShards
from mofe.artifacts.partition import Partition
from mofe.data.loader import ShardDataset, batches, evaluation_transform, normalised
from mofe.errors import MofeError
from mofe.models.backbone import create_backbone
from mofe.models.device import autocast, device
from mofe.models.mofe import MoFE, MoFEOutput
from mofe.progress import progress


class EmbeddedBatch(NamedTuple):
    """A batch's place in the image set, and what each model says of it; float32, on the CPU."""

    positions_B: np.ndarray
    labels_B: np.ndarray
    outputs: tuple[MoFEOutput, ...]

    @classmethod
    def joined(cls, batches: Sequence[Self]) -> Self:
        """Several batches as one."""
        positions, labels, outputs = zip(*batches, strict=True)
        of_models = (zip(*of_model, strict=True) for of_model in zip(*outputs, strict=True))
        joined = tuple(MoFEOutput(*map(torch.cat, parts)) for parts in of_models)
        return cls(np.concatenate(positions), np.concatenate(labels), joined)


def untouched(backbone: Backbone, classes: tuple[str, ...]) -> MoFE:
    """The pre-trained backbone as a model of one expert that was not trained."""
    return MoFE(create_backbone(backbone), Partition.of_one_expert(classes), backbone.depth)


def on_cpu(output: MoFEOutput) -> MoFEOutput:
    """The same on the CPU, in float32 what was in half of it."""
    return MoFEOutput(*(t.float().cpu() if t.is_floating_point() else t.cpu() for t in output))


@torch.inference_mode()
def embed_shards(
    models: Sequence[MoFE],
    shards: ImageShards,
    preprocessing: Preprocessing,
    *,
    label: str,
    batch_size: int,
    num_workers: int,
    precision: str,
    positions: np.ndarray | None = None,
    expert_of_class: np.ndarray | None = None,
) -> Iterator[EmbeddedBatch]:
    """Embed the images of a set, in order.

    Args:
        models: see the same images, which are decoded once; they are moved to this machine's device.
        shards: the images.
        preprocessing: the backbone's own.
        label: of the progress bar.
        batch_size: images at once.
        num_workers: processes that decode images.
        precision: ``auto``, ``bf16`` or ``fp32``.
        positions: which images; all if None.
        expert_of_class: send each image to the expert of its class instead of where the router would.

    Raises:
        MofeError: an embedding is not finite; the message names the image.
    """
    place = device()
    for model in models:
        model.to(place).eval()
    dataset = ShardDataset(shards, evaluation_transform(preprocessing))
    positions = np.arange(len(dataset)) if positions is None else positions
    with progress(label=label, total=len(positions)) as bar:
        for images, labels_B, positions_B in batches(dataset, positions, batch_size, num_workers):
            routes = None if expert_of_class is None else torch.from_numpy(expert_of_class)[labels_B].to(place)
            images = normalised(images.to(place, non_blocking=True), preprocessing)
            outputs = []
            for number, model in enumerate(models, 1):
                with autocast(precision):
                    output = model(images, routes)
                if fault := _not_finite(output):
                    name, in_batch = fault
                    image = shards.image(int(positions_B[in_batch]))[1]
                    which = f" (model {number} of {len(models)})" if len(models) > 1 else ""
                    raise MofeError(f"{label}: the {name} of {image}{which} is not finite; try precision=fp32")
                outputs.append(on_cpu(output))
            yield EmbeddedBatch(positions_B.numpy(), labels_B.numpy(), tuple(outputs))
            bar.update(len(images))


def _not_finite(output: MoFEOutput) -> tuple[str, int] | None:
    """Which part of an output is not finite, and for which image of the batch; with one wait for the device."""
    values = {
        "trunk embedding": output.trunk_BD,
        "embedding": output.embedding_BD,
        "router output": output.router_logits_BE,
        "logits": output.logits.clamp(min=-1),  # of classes of other experts they are -inf
    }
    # checked where they are: beside many loaders, the CPU's threads wait for one another
    finite_VB = torch.stack([values_BX.isfinite().all(dim=1) for values_BX in values.values()]).cpu()
    if finite_VB.all():
        return None
    number, in_batch = (~finite_VB).nonzero()[0].tolist()
    return list(values)[number], in_batch
