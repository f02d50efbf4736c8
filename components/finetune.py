"""Makes a MoFE from the backbone and trains it."""

from typing import Any

from kfp import dsl

from components.images import image


@dsl.component(base_image=image("train"), install_kfp_package=False)
def finetune(
    images: dsl.Input[dsl.Dataset],
    features: dsl.Input[dsl.Dataset],
    partition: dsl.Input[dsl.Artifact],
    top_k: int,
    epochs: int,
    probe_epochs: int,
    probe_learning_rate: float,
    batch_size: int,
    micro_batch_size: int,
    learning_rate: float,
    min_learning_rate: float,
    warmup_epochs: float,
    weight_decay: float,
    layer_decay: float,
    drop_path: float,
    clip_norm: float,
    augmentation: str,
    mixup: str,
    mixup_scale: float,
    mixup_sigma: float,
    fold_lambda: bool,
    regulariser: str,
    regulariser_weight: float,
    negative_weight: float,
    router: str,
    expert_init: str,
    validation_fraction: float,
    seed: int,
    num_workers: int,
    precision: str,
    num_nodes: int,
    node_resources: dict[str, Any],
    checkpoints: str,
    model: dsl.Output[dsl.Model],
    history: dsl.Output[dsl.Artifact],
):
    arguments = {name: getattr(value, "path", value) for name, value in locals().items()}

    from mofe.stages import finetune as stage

    stage.finetune(**arguments)
