"""Joins the scores of all shards of an evaluation set."""

from kfp import dsl

from components.images import image


@dsl.component(base_image=image("data"), install_kfp_package=False)
def merge_scores(
    parts: dsl.Input[list[dsl.Dataset]],
    scores: dsl.Output[dsl.Dataset],
):
    from mofe.stages import merge_scores as stage

    stage.merge_scores([part.path for part in parts], scores.path)
