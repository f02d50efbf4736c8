"""Joins the features of all shards and computes the prototypes of their classes."""

from kfp import dsl

from components.images import image


@dsl.component(base_image=image("partition"), install_kfp_package=False)
def merge_features(
    parts: dsl.Input[list[dsl.Dataset]],
    features: dsl.Output[dsl.Dataset],
):
    from mofe.stages import merge_features as stage

    stage.merge_features([part.path for part in parts], features.path)
