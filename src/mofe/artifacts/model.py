"""A trained model: its configuration, and the history of its training."""

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

from mofe.artifacts.backbone import Backbone
from mofe.artifacts.manifest import Manifest
from mofe.artifacts.partition import Partition, RouterKind


class ModelConfig(Manifest):
    """``config.json`` of a trained model."""

    file_name: ClassVar[str] = "config.json"
    what: ClassVar[str] = "model"
    schema_version: int = 3
    """Version 3, because experts of earlier models were trained at far too high a rate (docs/log.md, 2026-11-28)."""
    library_version: str
    backbone: Backbone
    top_k: int
    router: RouterKind = "cluster"
    partition: Partition
    validation_fraction: float
    seed: int
    training: dict[str, Any]
    """Parameters of the finetune stage alone."""
    precision: str = ""
    """Precision of matrix products in training, bf16 or fp32; "" in models from before it was recorded."""


class Epoch(BaseModel):
    """Measurements at the end of a training epoch; epoch 0 is the state after the linear probe."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    epoch: int
    learning_rate: float
    """Peak learning rate of the router and the heads."""
    layer_rates: dict[str, float]
    """Learning rate of each layer in the last step, from the input up; empty after the probe."""
    loss: float
    route_loss: float
    expert_loss: float
    regulariser: float
    validation_accuracy: float
    router_accuracy: float
    class_accuracy: tuple[float, ...]
    sigma: tuple[float, ...]
    images_per_second: float


class History(Manifest):
    """``history.json``: the epochs of a training run."""

    file_name: ClassVar[str] = "history.json"
    what: ClassVar[str] = "training history"
    schema_version: int = 3
    epochs: tuple[Epoch, ...]
