"""Joins the predictions of all shards of a batch and counts them."""

from kfp import dsl

from components.images import image


@dsl.component(base_image=image("data"), install_kfp_package=False)
def merge_predictions(
    shards: dsl.Input[list[dsl.Dataset]],
    predictions: dsl.Output[dsl.Dataset],
    counts: dsl.Output[dsl.Metrics],
):
    from mofe.stages import merge_predictions as stage

    found = stage.merge_predictions([shard.path for shard in shards], predictions.path, counts.path)
    for kind, count in found.items():
        counts.log_metric(kind, count)
