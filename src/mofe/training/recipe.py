"""How a model is trained: every number that shapes the result, checked before any work begins."""

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

from mofe.artifacts.partition import RouterKind
from mofe.errors import MofeError

MIXUPS = ("dynamic", "fixed", "none")
REGULARISERS = ("label-smoothing", "l2", "none")
ROUTERS = ("cluster", "class")
EXPERT_INITS = ("backbone", "naive")
AUGMENTATIONS = ("randaugment", "crop-flip", "crop", "none")


@dataclass(frozen=True)
class Recipe:
    """The parameters of fine-tuning; the finetune stage documents each."""

    epochs: int
    probe_epochs: int
    probe_learning_rate: float
    batch_size: int
    micro_batch_size: int
    learning_rate: float
    min_learning_rate: float
    warmup_epochs: float
    weight_decay: float
    layer_decay: float
    drop_path: float
    clip_norm: float
    augmentation: str
    mixup: str
    mixup_scale: float
    mixup_sigma: float
    fold_lambda: bool
    regulariser: str
    regulariser_weight: float
    negative_weight: float
    router: RouterKind
    expert_init: str
    validation_fraction: float
    seed: int

    def __post_init__(self) -> None:
        _one_of("mixup", self.mixup, MIXUPS)
        _one_of("regulariser", self.regulariser, REGULARISERS)
        _one_of("router", self.router, ROUTERS)
        _one_of("expert_init", self.expert_init, EXPERT_INITS)
        _one_of("augmentation", self.augmentation, AUGMENTATIONS)
        for name in ("epochs", "probe_epochs", "warmup_epochs", "weight_decay", "clip_norm"):
            _within(name, getattr(self, name), 0, float("inf"))
        for name in ("regulariser_weight", "negative_weight"):
            _within(name, getattr(self, name), 0, float("inf"))
        for name in ("learning_rate", "probe_learning_rate"):
            _within(name, getattr(self, name), 1e-12, 10)
        _within("min_learning_rate", self.min_learning_rate, 0, self.learning_rate)
        for name in ("batch_size", "micro_batch_size"):
            _within(name, getattr(self, name), 1, 1 << 20)
        _within("layer_decay", self.layer_decay, 1e-6, 1)
        _within("drop_path", self.drop_path, 0, 0.99)
        _within("mixup_scale", self.mixup_scale, 0, 1)
        _within("mixup_sigma", self.mixup_sigma, 0.05, 100)
        _within("validation_fraction", self.validation_fraction, 1e-6, 0.5)
        _within("seed", self.seed, 0, 2**32 - 1)
        if self.regulariser == "label-smoothing":
            _within("regulariser_weight", self.regulariser_weight, 0, 0.99)

    def naive(self) -> Self:
        """The same fine-tuning without experts and Mixup, labels smoothed: what naive experts start from."""
        return replace(
            self,
            mixup="none",
            regulariser="label-smoothing",
            regulariser_weight=0.1,
            router="cluster",
            expert_init="backbone",
        )

    def shares(self, processes: int) -> tuple[int, int]:
        """How a step's ``batch_size`` images are shared: images of a micro-batch, micro-batches of each process.

        Their product over all processes is ``batch_size``; a micro-batch is as large as ``micro_batch_size`` allows.

        Raises:
            MofeError: it can only be shared unevenly, or in far smaller pieces than were asked for.
        """
        of_each, left = divmod(self.batch_size, processes)
        most = min(self.micro_batch_size, of_each)
        micro = next((size for size in range(most, most // 2, -1) if of_each % size == 0), 0)
        if left or not micro:
            whole = processes * self.micro_batch_size
            raise MofeError(
                f"batch_size = {self.batch_size} cannot be shared evenly among {processes} processes in micro-batches "
                f"of about {self.micro_batch_size}: take a multiple of {whole}, or another micro_batch_size"
            )
        return micro, of_each // micro

    def to_dict(self) -> dict[str, Any]:
        """The parameters as plain JSON values."""
        return asdict(self)


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise MofeError(f"{name} = {value!r} is not one of {', '.join(allowed)}")


def _within(name: str, value: float, low: float, high: float) -> None:
    if not (low <= value <= high and math.isfinite(value)):
        allowed = f"lie between {low:g} and {high:g}" if math.isfinite(high) else f"be at least {low:g} and finite"
        raise MofeError(f"{name} = {value} must {allowed}")
