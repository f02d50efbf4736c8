"""A mixture of feature experts is made from the backbone and trained."""

from typing import Any, Dict  # noqa: UP035  (kfp reads these spellings)

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
    node_resources: Dict[str, Any],  # noqa: UP006
    checkpoints: str,
    model: dsl.Output[dsl.Model],
    history: dsl.Output[dsl.Artifact],
):
    from mofe.stages import finetune as stage

    stage.finetune(
        images.path,
        features.path,
        partition.path,
        model.path,
        history.path,
        top_k=top_k,
        epochs=epochs,
        probe_epochs=probe_epochs,
        probe_learning_rate=probe_learning_rate,
        batch_size=batch_size,
        micro_batch_size=micro_batch_size,
        learning_rate=learning_rate,
        min_learning_rate=min_learning_rate,
        warmup_epochs=warmup_epochs,
        weight_decay=weight_decay,
        layer_decay=layer_decay,
        drop_path=drop_path,
        clip_norm=clip_norm,
        augmentation=augmentation,
        mixup=mixup,
        mixup_scale=mixup_scale,
        mixup_sigma=mixup_sigma,
        fold_lambda=fold_lambda,
        regulariser=regulariser,
        regulariser_weight=regulariser_weight,
        negative_weight=negative_weight,
        router=router,
        expert_init=expert_init,
        validation_fraction=validation_fraction,
        seed=seed,
        num_workers=num_workers,
        precision=precision,
        num_nodes=num_nodes,
        node_resources=node_resources,
        checkpoints=checkpoints,
    )
