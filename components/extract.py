"""Extracts features of the training images with the pre-trained backbone, and the prototype of each class."""

from typing import Any

from kfp import dsl

from components.images import image


@dsl.component(base_image=image("train"), install_kfp_package=False)
def extract(
    images: dsl.Input[dsl.Dataset],
    backbone: str,
    backbone_args: dict[str, Any],
    weights: str,
    weights_digest: str,
    mofe_depth: int,
    batch_size: int,
    num_workers: int,
    precision: str,
    features: dsl.Output[dsl.Dataset],
    shard: int = 0,
    shards: int = 1,
):
    arguments = {name: getattr(value, "path", value) for name, value in locals().items()}

    from mofe.stages import extract as stage

    stage.extract(**arguments)
