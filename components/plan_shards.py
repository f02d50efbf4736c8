"""Numbers the shards of an image set."""

from kfp import dsl

from components.images import image


@dsl.component(base_image=image("data"), install_kfp_package=False)
def plan_shards(images: dsl.Input[dsl.Dataset], shards: int, batch_size: int) -> list[int]:
    from mofe.stages import plan_shards as stage

    return stage.plan_shards(images.path, shards=shards, batch_size=batch_size)
