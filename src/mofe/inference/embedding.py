"""Embedding of images by models: extract, index, score and the detector all use this code."""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple, Self

import numpy as np
import torch

from mofe.artifacts.backbone import Backbone, Preprocessing
from mofe.artifacts.image_shards import ImageShards
from mofe.artifacts.partition import Partition
from mofe.data.loader import ShardDataset, batches, evaluation_transform, normalised
from mofe.device import autocast, compiling_pays, device, to_device
from mofe.errors import MofeError
from mofe.models.backbone import create_backbone
from mofe.models.mofe import MoFE, MoFEOutput
from mofe.progress import progress


class EmbedOptions(NamedTuple):
    """How images are read and embedded."""

    preprocessing: Preprocessing
    """Preprocessing of the backbone."""
    batch_size: int
    """Number of images per batch."""
    num_workers: int
    """Number of processes that decode images."""
    precision: str
    """``auto``, ``bf16`` or ``fp32``."""


class EmbeddedBatch(NamedTuple):
    """A batch's positions in the image set, and the output of each model: float32, on the CPU."""

    positions_B: np.ndarray
    labels_B: np.ndarray
    outputs: tuple[MoFEOutput, ...]
    local_B: torch.Tensor
    """GL-MCM's local score of each image, float64; shape (0,) if it was not computed."""

    @classmethod
    def concat(cls, batches: Sequence[Self]) -> Self:
        """Join several batches into one."""
        positions, labels, outputs, local = zip(*batches, strict=True)
        of_models = (zip(*of_model, strict=True) for of_model in zip(*outputs, strict=True))
        joined = tuple(MoFEOutput(*map(torch.cat, parts)) for parts in of_models)
        return cls(np.concatenate(positions), np.concatenate(labels), joined, torch.cat(local))


def group_batches(embedded: Iterator[EmbeddedBatch], batches: int | None = None) -> Iterator[EmbeddedBatch]:
    """Join every ``batches`` batches into one; join all if it is None."""
    while group := list(islice(embedded, batches)):
        yield EmbeddedBatch.concat(group)


def create_pretrained(backbone: Backbone, classes: tuple[str, ...]) -> MoFE:
    """Create the pre-trained backbone as a model of one expert, without training."""
    return MoFE(create_backbone(backbone), Partition.of_one_expert(classes), backbone.depth)


def on_cpu(output: MoFEOutput, *, non_blocking: bool = False) -> MoFEOutput:
    """Copy an output to the CPU, with all floating-point parts in float32."""
    parts = (t.float() if t.is_floating_point() else t for t in output)
    return MoFEOutput(*(t.to("cpu", non_blocking=non_blocking) for t in parts))


@torch.inference_mode()
def embed_shards(
    models: Sequence[MoFE],
    shards: ImageShards,
    options: EmbedOptions,
    *,
    label: str,
    positions: np.ndarray | None = None,
    expert_of_class: np.ndarray | None = None,
    local: Callable[[], torch.Tensor] | None = None,
) -> Iterator[EmbeddedBatch]:
    """Embed the images of a set, in order.

    A GPU starts on a batch before the caller receives the batch before it, so that both work at once.

    Args:
        models: models that embed each image, which is decoded once; they are moved to this machine's device.
        shards: the images.
        options: how images are read and embedded.
        label: text of the progress bar.
        positions: positions of the images to embed; all if None.
        expert_of_class: expert of each class (C,), to use for the images of that class instead of the router's choice.
        local: function that returns the local scores of the last batch of the last model.

    Raises:
        MofeError: an embedding is not finite; the message names the image.
    """
    place = device()
    for model in models:
        model.to(place).eval()
        if compiling_pays(len(shards) / 10):  # the whole set counts, because its shards must get the same results
            model.compile_trunk()
    dataset = ShardDataset(shards, evaluation_transform(options.preprocessing))
    positions = np.arange(len(dataset)) if positions is None else positions
    experts_C = None if expert_of_class is None else torch.from_numpy(expert_of_class)
    begun = (
        _begin(
            models,
            normalised(to_device(images, place), options.preprocessing),
            positions_B.numpy(),
            labels_B.numpy(),
            None if experts_C is None else to_device(experts_C[labels_B], place),
            local,
            options.precision,
        )
        for images, labels_B, positions_B in batches(dataset, positions, options.batch_size, options.num_workers)
    )
    with progress(label=label, total=len(positions)) as bar:
        for batch in _one_ahead(begun) if place.type == "cuda" else begun:
            yield _finish(batch, shards, label)
            bar.update(len(batch.positions_B))


class _Begun(NamedTuple):
    """A batch that a GPU may still be computing; all of it is on the CPU once the event has occurred."""

    positions_B: np.ndarray
    labels_B: np.ndarray
    outputs: tuple[MoFEOutput, ...]
    faults_MVB: torch.Tensor
    """Whether value v of :data:`CHECKED` of image b by model m is not finite."""
    local_B: torch.Tensor
    event: torch.cuda.Event | None


CHECKED = ("trunk embedding", "embedding", "router output", "logits")


def _begin(
    models: Sequence[MoFE],
    images: torch.Tensor,
    positions_B: np.ndarray,
    labels_B: np.ndarray,
    routes_B: torch.Tensor | None,
    local: Callable[[], torch.Tensor] | None,
    precision: str,
) -> _Begun:
    """Start a GPU's computation and its copy to the CPU without waiting; on other devices, compute before returning."""
    place = images.device
    with autocast(precision):
        outputs = [model(images, routes_B) for model in models]
    # checked on the device, because the loaders need the CPU
    non_blocking = place.type == "cuda"
    faults_MVB = torch.stack([_faults(output) for output in outputs]).to("cpu", non_blocking=non_blocking)
    copies = tuple(on_cpu(output, non_blocking=non_blocking) for output in outputs)
    local_B = torch.empty(0) if local is None else local().to("cpu", non_blocking=non_blocking)
    event = torch.cuda.current_stream(place).record_event() if non_blocking else None
    return _Begun(positions_B, labels_B, copies, faults_MVB, local_B, event)


def _faults(output: MoFEOutput) -> torch.Tensor:
    """Whether each value of :data:`CHECKED` of each image is not finite: (V, B)."""
    logits_BK = output.logits.clamp(min=-1)  # logits of the classes of other experts are -inf
    checked = (output.trunk_BD, output.embedding_BD, output.router_logits_BE, logits_BK)
    return torch.stack([~values_BX.isfinite().all(dim=1) for values_BX in checked])


def _one_ahead(begun: Iterator[_Begun]) -> Iterator[_Begun]:
    """Yield each batch once the next batch has begun."""
    held = next(begun, None)
    while held:
        following = next(begun, None)
        yield held
        held = following


def _finish(batch: _Begun, shards: ImageShards, label: str) -> EmbeddedBatch:
    """Wait for a batch, and check that all its values are finite."""
    if batch.event:
        batch.event.synchronize()
    if batch.faults_MVB.any():
        model, part, in_batch = batch.faults_MVB.nonzero()[0].tolist()
        image = shards.image(int(batch.positions_B[in_batch]))[1]
        which = f" (model {model + 1} of {len(batch.outputs)})" if len(batch.outputs) > 1 else ""
        raise MofeError(f"{label}: the {CHECKED[part]} of {image}{which} is not finite; try precision=fp32")
    return EmbeddedBatch(batch.positions_B, batch.labels_B, batch.outputs, batch.local_B)
