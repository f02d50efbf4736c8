"""Makes a MoFE from the backbone and trains it."""

import hashlib
import json
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from timm.models.vision_transformer import VisionTransformer
from upath import UPath

from mofe import __version__
from mofe.artifacts.features import Features
from mofe.artifacts.image_shards import ImageShards
from mofe.artifacts.keywords import takes
from mofe.artifacts.model import Epoch, History, ModelConfig
from mofe.artifacts.partition import Partition
from mofe.artifacts.recipe import KEYWORDS, Recipe
from mofe.device import resolve_precision
from mofe.errors import MofeError
from mofe.inference.embedding import EmbedOptions, embed_shards
from mofe.models.backbone import create_backbone
from mofe.models.checkpoint import save_model
from mofe.models.mofe import MoFE
from mofe.storage import locations, writing
from mofe.tracking import journal
from mofe.tracking.journal import StageRun
from mofe.training import distributed
from mofe.training.checkpoint import note_model_written, remove_if_model_written
from mofe.training.loop import Embeddings, Trainer
from mofe.training.nodes import train_on_nodes


@takes(KEYWORDS, after="top_k")
def finetune(
    images: str,
    features: str,
    partition: str,
    model: str,
    history: str,
    *,
    top_k: int = 1,
    num_workers: int = 4,
    precision: str = "auto",
    processes: int = 0,
    num_nodes: int = 1,
    node_resources: dict[str, Any] | None = None,
    checkpoints: str = "",
    **training: Any,
) -> None:
    """Train a mixture of feature experts: a linear probe on stored features, then fine-tuning with Dynamic-β Mixup.

    With a folder for checkpoints, the same command resumes an interrupted run; after a finished run it starts from the
    beginning. On SIGTERM it finishes the step in progress, writes a checkpoint and exits with status 143. Each GPU of
    the machine gets its own process, and the processes share each batch. Under torchrun, torchrun's processes do so.

    Args:
        images: training images written by prepare (path or URI).
        features: features written by extract from these images.
        partition: partition written by partition from these features.
        model: path or URI of the folder to write the model to.
        history: path or URI of the folder to write the measurements of each epoch to.
        top_k: number of experts that an image is sent to at inference; several are weighted by router probability.
        training: fields of :class:`~mofe.artifacts.recipe.Recipe`.
        num_workers: processes that decode images.
        precision: auto (bf16 on a GPU that has it, float32 on a CPU), bf16 or fp32.
        processes: number of processes that train together on this machine; 0 starts one for each GPU.
        num_nodes: number of pods that train together on a cluster. With more than one, this pod starts a TrainJob of
            Kubeflow Trainer and waits for it.
        node_resources: resources that each of several nodes requests in place of those of this pod, for example
            {"nvidia.com/gpu": 8}.
        checkpoints: folder (path or URI) for checkpoints; "" keeps none.

    Raises:
        MofeError: the inputs do not belong together, or a parameter is invalid.
    """
    arguments = {**locals(), **training}
    for name in ("training", "num_nodes", "node_resources"):
        del arguments[name]
    recipe = Recipe(**training)
    if num_nodes < 1:
        raise MofeError(f"num_nodes = {num_nodes} must be at least 1")
    if num_nodes > 1:
        train_on_nodes(arguments, num_nodes, node_resources or {})
        return
    together = _num_processes(processes)
    if together > 1 and not distributed.started():
        distributed.launch(finetune, arguments, together)
        return
    with distributed.process_group():
        shown = {**recipe.to_dict(), "top_k": top_k, "precision": precision}
        with journal.stage_run("finetune", shown) if distributed.is_first() else nullcontext() as run:
            sources = _read_sources(images, features, partition)
            config = _model_config(sources, recipe, top_k, precision)
            place = _checkpoint_folder(checkpoints, config, precision)
            tuning = _FineTuning(sources.shards, config, num_workers, precision)

            start = create_backbone(config.backbone, drop_path=recipe.drop_path)
            embeddings: Callable[[], Embeddings] = partial(stored_embeddings, sources.features)
            if recipe.expert_init == "naive":
                start, embeddings = tuning.naive_start(start, recipe, embeddings, place)
            trainer = tuning.run(start, sources.partition, recipe, embeddings, place, top_k, _report_to(run))
            if distributed.is_first():
                _write(model, history, trainer, config)
                if place:
                    note_model_written(place)
            distributed.wait_for_all()


def _num_processes(wanted: int) -> int:
    """Number of processes that train together on this machine.

    Raises:
        MofeError: more processes are wanted than there are GPUs.
    """
    devices = torch.accelerator.device_count()
    if 0 < devices < wanted:
        raise MofeError(f"processes = {wanted} must be at most {devices}, the number of GPUs of this machine")
    return wanted or max(1, devices)


class _Sources(NamedTuple):
    """Inputs that a model is made from."""

    shards: ImageShards
    features: Features
    partition: Partition


def _read_sources(images: str, features: str, partition: str) -> _Sources:
    """Read the inputs and check that they belong to one run.

    Raises:
        MofeError: an input is missing, damaged, or belongs to another run.
    """
    shards = ImageShards(images, hashed=distributed.is_first_here())  # the other processes wait for this one
    known = Features(features)
    classes = Partition.read(partition)
    if not shards.info.classes == known.info.classes == classes.classes:
        raise MofeError(f"{images}, {features} and {partition} have different classes: give the files of one run")
    if not known.info.check_source("images", shards.info):
        raise MofeError(f"the features {features} were not extracted from the images {images}: run extract again")
    if not classes.check_source("features", known.info):
        raise MofeError(f"the partition {partition} was not made from the features {features}: run partition again")
    return _Sources(shards, known, classes)


def stored_embeddings(known: Features) -> Embeddings:
    """Embeddings of the training images that extract stored, as tensors."""
    return Embeddings(torch.from_numpy(known.column("trunk")), torch.from_numpy(known.column("embedding")))


def _model_config(sources: _Sources, recipe: Recipe, top_k: int, precision: str) -> ModelConfig:
    made_from = {"images": sources.shards.info, "features": sources.features.info, "partition": sources.partition}
    return ModelConfig(
        made_from={what: source.identity for what, source in made_from.items()},
        library_version=__version__,
        backbone=sources.features.info.backbone,
        top_k=top_k,
        router=recipe.router,
        partition=sources.partition,
        validation_fraction=recipe.validation_fraction,
        seed=recipe.seed,
        training=recipe.to_dict(),
        precision=resolve_precision(precision, training=True),
    )


def _checkpoint_folder(checkpoints: str, config: ModelConfig, precision: str) -> UPath | None:
    """The folder of this run's checkpoints, after those of a finished run were deleted; None keeps no checkpoints."""
    place = locations.resolve(checkpoints) / _digest_of(config, precision) if checkpoints else None
    if place and distributed.is_first():
        remove_if_model_written(place)
    distributed.wait_for_all()
    return place


def _digest_of(config: ModelConfig, precision: str) -> str:
    """Digest of everything that shapes the result: only a run with the same digest resumes a checkpoint.

    ``auto`` stays ``auto`` in it, so that another machine can resume a run whose own was lost.
    """
    shape = {**config.model_dump(mode="json"), "precision": precision}
    return hashlib.sha256(json.dumps(shape, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class _FineTuning:
    """One or two trainings on the same images."""

    shards: ImageShards
    config: ModelConfig
    num_workers: int
    precision: str

    def run(
        self,
        backbone: VisionTransformer,
        partition: Partition,
        recipe: Recipe,
        embeddings: Callable[[], Embeddings],
        checkpoints: UPath | None,
        top_k: int = 1,
        on_epoch: Callable[[Epoch], None] = lambda _: None,
    ) -> Trainer:
        """Make the MoFE of a backbone and a partition, and train it."""
        torch.manual_seed(self.config.seed)  # for the initial weights of the router and the heads
        trainer = Trainer(
            model=MoFE(backbone, partition, self.config.backbone.depth, top_k, recipe.router),
            shards=self.shards,
            embeddings=embeddings,
            preprocessing=self.config.backbone.preprocessing,
            recipe=recipe,
            num_workers=self.num_workers,
            precision=self.precision,
            checkpoints=checkpoints,
            on_epoch=on_epoch,
        )
        trainer.train()
        return trainer

    def naive_start(
        self,
        backbone: VisionTransformer,
        recipe: Recipe,
        embeddings: Callable[[], Embeddings],
        checkpoints: UPath | None,
    ) -> tuple[VisionTransformer, Callable[[], Embeddings]]:
        """Fine-tune the backbone without experts; return it, and a function that embeds the training images by it."""
        only = Partition.of_one_expert(self.config.partition.classes)
        place = checkpoints / "naive" if checkpoints else None
        naive = self.run(backbone, only, recipe.naive(), embeddings, place).model
        return naive.as_backbone(), partial(self._embed, naive)

    def _embed(self, model: MoFE) -> Embeddings:
        """Embed the training images by a model of one expert."""
        options = EmbedOptions(
            self.config.backbone.preprocessing,
            self.config.training["micro_batch_size"],
            self.num_workers,
            self.precision,
        )
        found = Embeddings(*(torch.empty(len(self.shards), model.dim) for _ in Embeddings._fields))
        for positions_B, _, (output,), _ in embed_shards([model], self.shards, options, label="embed"):
            found.trunk_ND[positions_B] = output.trunk_BD
            found.embedding_ND[positions_B] = output.embedding_BD
        model.zero_grad(set_to_none=True)
        model.cpu()  # frees the device for the model that is trained next
        return found


def _report_to(run: StageRun | None) -> Callable[[Epoch], None]:
    """Make a function that logs the figures of an epoch to ``run``; it does nothing where ``run`` is None."""

    def report(epoch: Epoch) -> None:
        if run is not None:
            figures = epoch.model_dump(exclude={"epoch", "layer_rates", "class_accuracy", "sigma"})
            run.metrics(figures, step=epoch.epoch)

    return report


def _write(model: str, history: str, trainer: Trainer, config: ModelConfig) -> None:
    with writing.staged(history) as folder:
        History(epochs=tuple(trainer.history), made_from=config.made_from).write(folder)
    with writing.staged(model) as folder:
        save_model(folder, trainer.model, config)
