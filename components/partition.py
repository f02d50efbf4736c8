"""Divides the classes among the experts."""

from kfp import dsl

from components.images import image


@dsl.component(base_image=image("partition"), install_kfp_package=False)
def partition(
    features: dsl.Input[dsl.Dataset],
    num_experts: int,
    strategy: str,
    seed: int,
    partition: dsl.Output[dsl.Artifact],
):
    from mofe.stages import partition as stage

    stage.partition(features.path, partition.path, num_experts=num_experts, strategy=strategy, seed=seed)
