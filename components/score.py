"""Scores the images of one evaluation set."""

from kfp import dsl

from components.images import image


@dsl.component(base_image=image("score"), install_kfp_package=False)
def score(
    images: dsl.Input[dsl.Dataset],
    detector: dsl.Input[dsl.Model],
    batch_size: int,
    num_workers: int,
    precision: str,
    scores: dsl.Output[dsl.Dataset],
    shard: int = 0,
    shards: int = 1,
):
    arguments = {name: getattr(value, "path", value) for name, value in locals().items()}

    from mofe.stages import score as stage

    stage.score(**arguments)
