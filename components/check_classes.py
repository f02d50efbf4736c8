"""Whether the classes suit the test set, the experts and WordNet, before any long stage."""

from typing import Any

from kfp import dsl

from components.images import image


@dsl.component(base_image=image("partition"), install_kfp_package=False)
def check_classes(
    train: dsl.Input[dsl.Dataset],
    test: dsl.Input[dsl.Dataset],
    num_experts: int,
    strategy: str,
    runs: list[dict[str, Any]] = [],  # noqa: B006
) -> int:
    from mofe.stages import check_classes as stage

    return stage.check_classes(train.path, test.path, num_experts=num_experts, strategy=strategy, runs=runs)
