"""The fine-tuning loop: linear probe, then epochs of training steps; each is measured on the validation split.

Every random number is drawn from (seed, epoch, micro-batch). So a run that is killed and resumed from a checkpoint
gives the same model as an uninterrupted run, and several processes (:mod:`mofe.training.distributed`) give the same
model as one.
"""

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from upath import UPath

from mofe.artifacts.backbone import Preprocessing
from mofe.artifacts.image_shards import ImageShards
from mofe.artifacts.model import Epoch
from mofe.artifacts.recipe import Recipe
from mofe.data.loader import (
    ShardDataset,
    batches,
    evaluation_transform,
    normalised,
    shuffled_positions,
    training_transform,
)
from mofe.data.validation_split import validation_mask
from mofe.device import autocast, compiling_pays, device, to_device
from mofe.errors import MofeError
from mofe.models.mofe import MoFE
from mofe.progress import progress
from mofe.training import distributed, termination
from mofe.training.checkpoint import load_checkpoint, save_checkpoint
from mofe.training.losses import pairs_with_negatives
from mofe.training.mixup import DynamicBetaMixup, Mixed
from mofe.training.optimiser import layer_rates, learning_rate, parameter_groups, set_learning_rate
from mofe.training.probe import linear_probe, predict_from_features
from mofe.training.step import TrainingStep

CHECKPOINT_MINUTES = 15.0
ADVICE = "try a lower learning_rate, a longer warmup_epochs, a clip_norm, or precision=fp32"
NOT_FINITE = f"after the latest steps the model gives values that are not finite: {ADVICE}"


class Embeddings(NamedTuple):
    """The untrained model's embeddings of the training images; on the CPU, float32 or as stored."""

    trunk_ND: Tensor
    """Class embeddings that enter the MoFE layer."""
    embedding_ND: Tensor
    """Final class embeddings."""


@dataclass
class Trainer:
    """Fine-tunes one model with :meth:`train`.

    Args:
        model: an untrained MoFE.
        shards: the training images.
        embeddings: function that returns the untrained model's embeddings of all images, in order; it is called once,
            or never if a run is resumed.
        preprocessing: preprocessing of the backbone.
        recipe: parameters of training.
        num_workers: number of processes that decode images.
        precision: precision of matrix products: ``auto``, ``bf16`` or ``fp32``.
        checkpoints: folder of this run's checkpoints; None writes none.
        on_epoch: function that is called with the measurements after the probe and after each epoch.
    """

    model: MoFE
    shards: ImageShards
    embeddings: Callable[[], Embeddings]
    preprocessing: Preprocessing
    recipe: Recipe
    num_workers: int
    precision: str
    checkpoints: UPath | None
    on_epoch: Callable[[Epoch], None] = lambda _: None
    history: list[Epoch] = field(default_factory=list)

    def train(self) -> None:
        """Run the linear probe, then fine-tune; or resume from the newest checkpoint if there is one.

        After SIGTERM the process finishes its step, writes a checkpoint and exits with
        :data:`mofe.training.termination.STATUS`. If several processes train together, SIGTERM to one stops all.

        Raises:
            MofeError: there are too few images for a batch, or a loss, weight or output is not finite.
        """
        recipe = self.recipe
        self.device = device()
        # same seed, same result; costs 7 % of the speed on a GPU, and other accelerators lack some operations
        torch.use_deterministic_algorithms(True, warn_only=self.device.type not in ("cpu", "cuda"))
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        self.model.to(self.device)
        self.clusters_C = self.model.expert_of_class_C.cpu()
        self.labels_N = self.shards.labels_N
        is_validation_N = validation_mask(self.labels_N, recipe.validation_fraction, recipe.seed)
        self.validation = np.flatnonzero(is_validation_N)
        self.is_training_N = ~is_validation_N
        processes = distributed.num_processes()
        micro_batch_size, of_each = recipe.shares(processes)
        # a set smaller than the batch is trained as one batch
        self.micro_batch_size = min(micro_batch_size, int(self.is_training_N.sum()))
        self.micro_batches = int(self.is_training_N.sum()) // self.micro_batch_size // processes * processes
        if not self.micro_batches:
            raise MofeError(
                f"{self.is_training_N.sum()} training images do not give each of {processes} processes a micro-batch "
                f"of {self.micro_batch_size}: lower micro_batch_size or use fewer processes"
            )
        self.accumulate = min(of_each * processes, self.micro_batches)
        self.steps_per_epoch = -(-self.micro_batches // self.accumulate)
        self.optimiser = torch.optim.AdamW(
            parameter_groups(self.model, recipe.weight_decay, recipe.layer_decay),
            lr=recipe.learning_rate,
            betas=(0.9, 0.95),
            fused=self.device.type == "cuda",
        )
        passes = recipe.epochs * self.micro_batches * self.micro_batch_size
        step = TrainingStep(
            self.model,
            recipe.regulariser,
            recipe.regulariser_weight,
            recipe.negative_weight,
            compiled=compiling_pays(passes),
        )
        self.mixup = DynamicBetaMixup(len(self.shards.info.classes), recipe.mixup_scale, fold=recipe.fold_lambda)
        self.last_saved = time.monotonic()

        resumed = load_checkpoint(self.checkpoints, self.model, self.optimiser) if self.checkpoints else None
        if resumed is None:
            self._probe()
            resumed = _beginning_of(1)
            self._save(resumed)
        else:
            self.history = [Epoch.model_validate(e) for e in resumed["history"]]
            self._set_sigma(self.history[-1].class_accuracy)
            print(f"resuming in epoch {resumed['epoch']} after step {resumed['step']}", flush=True)
        self.step: nn.Module = step
        if distributed.num_processes() > 1 and recipe.epochs:  # some backbones have weights that no token uses
            self.step = DistributedDataParallel(step, broadcast_buffers=False, find_unused_parameters=True)
        with termination.deferred() as self.stop_requested:
            for epoch in range(resumed["epoch"], recipe.epochs + 1):
                self._train_epoch(epoch, resumed["step"], np.array(resumed["sums"]))
                resumed = _beginning_of(epoch + 1)
                self._save(resumed)

    def _probe(self) -> None:
        """Train router and heads on stored embeddings, and measure the model."""
        started = time.monotonic()
        embeddings = self.embeddings()
        rows_M = torch.from_numpy(np.flatnonzero(self.is_training_N))
        linear_probe(self.model, *embeddings, torch.from_numpy(self.labels_N), rows_M, self.recipe)
        predicted, routed = predict_from_features(self.model, *embeddings, torch.from_numpy(self.validation))
        seen = len(rows_M) * self.recipe.probe_epochs
        self._record(
            0, self.recipe.probe_learning_rate, np.zeros(3), predicted, routed, seen / (time.monotonic() - started)
        )

    def _train_epoch(self, epoch: int, steps: int, sums: np.ndarray) -> None:
        """Train for the rest of an epoch and measure; ``steps`` are done, ``sums`` are their losses over images."""
        recipe = self.recipe
        started = time.monotonic()
        dataset = ShardDataset(self.shards, training_transform(self.preprocessing, recipe.augmentation), recipe.seed)
        dataset.epoch = epoch
        order = shuffled_positions([rows for _, _, rows in self.shards.row_groups], recipe.seed, epoch)
        order = order[self.is_training_N[order]][: self.micro_batches * self.micro_batch_size]
        done = min(steps * self.accumulate, self.micro_batches)
        processes, rank = distributed.num_processes(), distributed.rank()
        own = order.reshape(self.micro_batches, -1)[done + rank :: processes].reshape(-1)
        self.model.train()
        loader = batches(dataset, own, self.micro_batch_size, self.num_workers)
        with progress(label=f"epoch {epoch}/{recipe.epochs}", total=len(order)) as bar:
            bar.update(done * self.micro_batch_size)
            for turn, (images, labels_B, _) in enumerate(loader):
                number = done + rank + turn * processes
                first, last = self._group_of(number)
                if number < first + processes:
                    self.optimiser.zero_grad(set_to_none=True)
                    step_losses = np.zeros(3)
                ends_step = number + processes > last
                rate = self._learning_rate(epoch, number)
                share = (last - first + 1) // processes
                with nullcontext() if ends_step else self._unsynchronised():
                    parts = self._backward(images, labels_B, epoch, number, share, rate)
                step_losses += parts * len(images)
                if ends_step:
                    all_losses, stop = self._finish_step(step_losses, rate)
                    sums += all_losses
                    steps += 1
                    if stop or time.monotonic() - self.last_saved > 60 * CHECKPOINT_MINUTES:
                        self._save({"epoch": epoch, "step": steps, "sums": sums.tolist()})
                    if stop:
                        print(f"stopped by SIGTERM in epoch {epoch} after step {steps}: {self._advice()}", flush=True)
                        distributed.wait_for_all()  # torchrun terminates all processes when one exits
                        sys.exit(termination.STATUS)
                bar.update(len(images) * processes)
                bar.set_postfix(loss=f"{parts.sum():.3f}", lr=f"{rate:.1e}", refresh=False)
        seen = (self.micro_batches - done) * self.micro_batch_size
        rate_of_images = seen / (time.monotonic() - started)
        rate = self._learning_rate(epoch, self.micro_batches - 1)
        set_learning_rate(self.optimiser, rate)  # a run that was resumed at the end of an epoch has not set it yet
        self._record(epoch, rate, sums / len(order), *self.predict_validation(), rate_of_images)

    def _finish_step(self, step_losses: np.ndarray, rate: float) -> tuple[np.ndarray, bool]:
        """Update the weights; return the losses of all processes, and whether any of them got SIGTERM."""
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_norm or float("inf"))
        set_learning_rate(self.optimiser, rate)
        self.optimiser.step()
        all_losses = distributed.all_reduce_sum(np.append(step_losses, self.stop_requested()))
        return all_losses[:-1], bool(all_losses[-1])

    def _group_of(self, number: int) -> tuple[int, int]:
        """First and last micro-batch of the optimiser step to which micro-batch ``number`` belongs."""
        first = number // self.accumulate * self.accumulate
        return first, min(first + self.accumulate, self.micro_batches) - 1

    def _learning_rate(self, epoch: int, number: int) -> float:
        recipe = self.recipe
        step = (epoch - 1) * self.steps_per_epoch + number // self.accumulate
        total = recipe.epochs * self.steps_per_epoch
        warmup = round(recipe.warmup_epochs * self.steps_per_epoch)
        return learning_rate(step, total, warmup, recipe.learning_rate, recipe.min_learning_rate)

    def _mixed(self, images: Tensor, labels_B: Tensor, epoch: int, number: int) -> tuple[Mixed, Tensor, Tensor]:
        """Apply Mixup to a micro-batch, on the device, and draw its pairs of image and expert; sets all seeds."""
        recipe = self.recipe
        torch.manual_seed(int(np.random.SeedSequence((recipe.seed, epoch, number, 1)).generate_state(1)[0]))
        generator = torch.Generator().manual_seed(int(torch.randint(1 << 31, ()).item()))
        self.mixup.generator = np.random.default_rng((recipe.seed, epoch, number, 2))
        images = normalised(to_device(images, self.device), self.preprocessing)
        if recipe.mixup == "none":
            batch = Mixed(images, labels_B, labels_B, torch.ones(len(labels_B)))
        else:
            batch = self.mixup(images, labels_B)
        image_P, expert_P = pairs_with_negatives(self.clusters_C[labels_B], generator)
        return Mixed(*(to_device(t, self.device) for t in batch)), image_P, expert_P

    def _unsynchronised(self) -> AbstractContextManager[None]:
        """Within this context, gradients are not exchanged between processes."""
        return self.step.no_sync() if isinstance(self.step, DistributedDataParallel) else nullcontext()

    def _backward(
        self, images: Tensor, labels_B: Tensor, epoch: int, number: int, share: int, rate: float
    ) -> np.ndarray:
        """Add the gradient of one of ``share`` micro-batches; return its route loss, expert loss and regulariser."""
        batch, image_P, expert_P = self._mixed(images, labels_B, epoch, number)
        with autocast(self.precision, training=True):
            losses = self.step(batch, image_P, expert_P)
        parts = torch.stack(losses).detach().cpu().double().numpy()
        if not np.isfinite(parts).all():
            raise MofeError(
                f"the loss is not finite in epoch {epoch}, micro-batch {number} (route, expert, regulariser = "
                f"{', '.join(f'{p:g}' for p in parts)}; learning rate {rate:.2e}): {ADVICE}"
            )
        (losses.total / share).backward()
        return parts

    def predict_validation(self) -> tuple[np.ndarray, np.ndarray]:
        """Predicted class and expert of each validation image.

        Raises:
            MofeError: an output of the model is not finite.
        """
        self.model.eval()
        dataset = ShardDataset(self.shards, evaluation_transform(self.preprocessing))
        predicted, routed = [], []
        with torch.inference_mode():
            own = self.validation[distributed.rank() :: distributed.num_processes()]
            for images, _, _ in batches(dataset, own, self.micro_batch_size, self.num_workers):
                with autocast(self.precision, training=True):
                    output = self.model(normalised(to_device(images, self.device), self.preprocessing))
                if output.logits.isnan().any() or not output.embedding_BD.isfinite().all():
                    raise MofeError(NOT_FINITE)
                predicted.append(output.logits[:, :-1].argmax(dim=1).cpu().numpy())
                routed.append(output.expert_B.cpu().numpy())
        nothing = np.empty(0, np.int64)  # for a process without images
        own_predicted, own_routed = np.concatenate([nothing, *predicted]), np.concatenate([nothing, *routed])
        return distributed.all_gather(own_predicted), distributed.all_gather(own_routed)

    def _record(
        self, epoch: int, rate: float, parts: np.ndarray, predicted: np.ndarray, routed: np.ndarray, speed: float
    ) -> None:
        labels = self.labels_N[self.validation]
        right = predicted == labels
        total_C = np.bincount(labels, minlength=len(self.shards.info.classes))
        accuracy_C = np.bincount(labels, weights=right, minlength=len(total_C)) / np.maximum(total_C, 1)
        self._set_sigma(accuracy_C)
        measured = Epoch(
            epoch=epoch,
            learning_rate=rate,
            layer_rates=layer_rates(self.model, self.optimiser) if epoch else {},
            loss=float(parts.sum()),
            route_loss=float(parts[0]),
            expert_loss=float(parts[1]),
            regulariser=float(parts[2]),
            validation_accuracy=float(right.mean()),
            router_accuracy=float((routed == self.clusters_C.numpy()[labels]).mean()),
            class_accuracy=tuple(accuracy_C.tolist()),
            sigma=tuple(self.mixup.sigma_C.tolist()),
            images_per_second=speed,
        )
        self.history.append(measured)
        self.on_epoch(measured)
        print(
            f"epoch {epoch}: loss {measured.loss:.4f}, " if epoch else "after the probe: ",
            f"validation accuracy {measured.validation_accuracy:.2%}, router {measured.router_accuracy:.2%}",
            sep="",
            flush=True,
        )

    def _set_sigma(self, accuracy_C: Sequence[float] | np.ndarray) -> None:
        """Set σ of each class for the next epoch; without Mixup it is recorded as 0."""
        if self.recipe.mixup == "dynamic":
            self.mixup.update(accuracy_C)
        else:
            sigma = self.recipe.mixup_sigma if self.recipe.mixup == "fixed" else 0.0
            self.mixup.sigma_C = np.full(len(accuracy_C), sigma)

    def _advice(self) -> str:
        return "run the same command to resume" if self.checkpoints else "nothing was saved, as checkpoints is empty"

    def _save(self, progress: dict[str, Any]) -> None:
        if self.checkpoints is None or not distributed.is_first():
            return
        if not all(parameter.isfinite().all() for parameter in self.model.parameters()):
            raise MofeError(NOT_FINITE)
        history = [epoch.model_dump(mode="json") for epoch in self.history]
        save_checkpoint(self.checkpoints, self.model, self.optimiser, {**progress, "history": history})
        self.last_saved = time.monotonic()


def _beginning_of(epoch: int) -> dict[str, Any]:
    """The progress of a run at the beginning of an epoch."""
    return {"epoch": epoch, "step": 0, "sums": [0.0] * 3}
