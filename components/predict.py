"""Predicts on one shard of a batch of images."""

from kfp import dsl

from components.images import image


@dsl.component(base_image=image("score"), install_kfp_package=False)
def predict(
    files: dsl.Input[dsl.Dataset],
    shard: int,
    detector: str,
    threshold: str,
    score: str,
    neighbours: int,
    batch_size: int,
    predictions: dsl.Output[dsl.Dataset],
):
    arguments = {name: getattr(value, "path", value) for name, value in locals().items()}

    from mofe.stages import predict as stage

    stage.predict(**arguments)
