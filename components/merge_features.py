"""The features of all shards as one set, and the prototypes of their classes."""

from typing import List  # noqa: UP035  (kfp reads this spelling)

from kfp import dsl

from components.images import image


@dsl.component(base_image=image("partition"), install_kfp_package=False)
def merge_features(
    parts: dsl.Input[List[dsl.Dataset]],  # noqa: UP006
    features: dsl.Output[dsl.Dataset],
):
    from mofe.stages import merge_features as stage

    stage.merge_features([part.path for part in parts], features.path)
