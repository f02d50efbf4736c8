"""Images through the model: the one code path by which extract, index, score and the detector embed."""

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
    """How images are read and looked at."""

    preprocessing: Preprocessing
    """The backbone's own."""
    batch_size: int
    """Images at once."""
    num_workers: int
    """Processes that decode images."""
    precision: str
    """``auto``, ``bf16`` or ``fp32``."""


class EmbeddedBatch(NamedTuple):
    """A batch's place in the image set, and what each model says of it; float32, on the CPU."""

    positions_B: np.ndarray
    labels_B: np.ndarray
    outputs: tuple[MoFEOutput, ...]
    local_B: torch.Tensor
    """What the patches show, float64; (0,) where nobody looked at them."""

    @classmethod
    def concat(cls, batches: Sequence[Self]) -> Self:
        """Several batches as one."""
        positions, labels, outputs, local = zip(*batches, strict=True)
        of_models = (zip(*of_model, strict=True) for of_model in zip(*outputs, strict=True))
        joined = tuple(MoFEOutput(*map(torch.cat, parts)) for parts in of_models)
        return cls(np.concatenate(positions), np.concatenate(labels), joined, torch.cat(local))


def group_batches(seen: Iterator[EmbeddedBatch], batches: int | None = None) -> Iterator[EmbeddedBatch]:
    """So many batches at a time as one, or all."""
    while some := list(islice(seen, batches)):
        yield EmbeddedBatch.concat(some)


def create_pretrained(backbone: Backbone, classes: tuple[str, ...]) -> MoFE:
    """The pre-trained backbone as a model of one expert that was not trained."""
    return MoFE(create_backbone(backbone), Partition.of_one_expert(classes), backbone.depth)


def on_cpu(output: MoFEOutput, *, non_blocking: bool = False) -> MoFEOutput:
    """The same on the CPU, in float32 what was in half of it."""
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

    A GPU is given a batch before the caller gets what it made of the one before, so that both work at once.

    Args:
        models: see the same images, which are decoded once; they are moved to this machine's device.
        shards: the images.
        options: how they are read and looked at.
        label: of the progress bar.
        positions: which images; all if None.
        expert_of_class: send each image to the expert of its class instead of where the router would.
        local: gives what the patches of the latest batch showed the last of the models.

    Raises:
        MofeError: an embedding is not finite; the message names the image.
    """
    place = device()
    for model in models:
        model.to(place).eval()
        if compiling_pays(len(shards) / 10):  # of the whole set, for its shards are to come out the same
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
    """A batch that a GPU may still be at work on; all of it is on the CPU once the event has come."""

    positions_B: np.ndarray
    labels_B: np.ndarray
    outputs: tuple[MoFEOutput, ...]
    faults_MVB: torch.Tensor
    """For each model which of :data:`CHECKED` are not finite, of which image."""
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
    """Have a GPU compute, and copy what it finds, without waiting for either; others are done when this returns."""
    place = images.device
    with autocast(precision):
        outputs = [model(images, routes_B) for model in models]
    # checked where they are, for the CPU has loaders to run
    non_blocking = place.type == "cuda"
    faults_MVB = torch.stack([_faults(output) for output in outputs]).to("cpu", non_blocking=non_blocking)
    copies = tuple(on_cpu(output, non_blocking=non_blocking) for output in outputs)
    local_B = torch.empty(0) if local is None else local().to("cpu", non_blocking=non_blocking)
    event = torch.cuda.current_stream(place).record_event() if non_blocking else None
    return _Begun(positions_B, labels_B, copies, faults_MVB, local_B, event)


def _faults(output: MoFEOutput) -> torch.Tensor:
    """Which of :data:`CHECKED` are not finite, of which image: (V, B)."""
    logits_BK = output.logits.clamp(min=-1)  # of classes of other experts they are -inf
    checked = (output.trunk_BD, output.embedding_BD, output.router_logits_BE, logits_BK)
    return torch.stack([~values_BX.isfinite().all(dim=1) for values_BX in checked])


def _one_ahead(begun: Iterator[_Begun]) -> Iterator[_Begun]:
    """Each batch, once the next has been begun."""
    held = next(begun, None)
    while held:
        following = next(begun, None)
        yield held
        held = following


def _finish(batch: _Begun, shards: ImageShards, label: str) -> EmbeddedBatch:
    """Wait for a batch, and check it."""
    if batch.event:
        batch.event.synchronize()
    if batch.faults_MVB.any():
        model, part, in_batch = batch.faults_MVB.nonzero()[0].tolist()
        image = shards.image(int(batch.positions_B[in_batch]))[1]
        which = f" (model {model + 1} of {len(batch.outputs)})" if len(batch.outputs) > 1 else ""
        raise MofeError(f"{label}: the {CHECKED[part]} of {image}{which} is not finite; try precision=fp32")
    return EmbeddedBatch(batch.positions_B, batch.labels_B, batch.outputs, batch.local_B)
