"""Verdicts on one shard of a batch of images."""

from kfp import dsl

from components.images import image


@dsl.component(base_image=image("score"), install_kfp_package=False)
def judge(
    files: dsl.Input[dsl.Dataset],
    shard: int,
    detector: str,
    threshold: str,
    score: str,
    neighbours: int,
    batch_size: int,
    verdicts: dsl.Output[dsl.Dataset],
):
    from mofe.stages import judge as stage

    stage.judge(
        files.path,
        detector,
        verdicts.path,
        shard=shard,
        threshold=threshold,
        score=score,
        neighbours=neighbours,
        batch_size=batch_size,
    )
