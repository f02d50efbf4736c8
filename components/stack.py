"""The features of all shards as one set, and the prototypes of their classes."""

from typing import List  # noqa: UP035  (kfp reads this spelling)

from kfp import dsl

from components.images import image


@dsl.component(base_image=image("partition"), install_kfp_package=False)
def stack(
    parts: dsl.Input[List[dsl.Dataset]],  # noqa: UP006
    features: dsl.Output[dsl.Dataset],
):
    from mofe.stages import stack as stage

    stage.stack([part.path for part in parts], features.path)
