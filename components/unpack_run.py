"""Returns the parameters of one run of a comparison."""

from typing import Any, NamedTuple

from kfp import dsl

from components.images import image


@dsl.component(base_image=image("data"), install_kfp_package=False)
def unpack_run(
    run: dict[str, Any],
) -> NamedTuple(
    "Configured",
    [
        ("name", str),
        ("seed", int),
        ("num_experts", int),
        ("strategy", str),
        ("top_k", int),
        ("epochs", int),
        ("learning_rate", float),
        ("mixup", str),
        ("mixup_scale", float),
        ("mixup_sigma", float),
        ("fold_lambda", bool),
        ("regulariser", str),
        ("regulariser_weight", float),
        ("negative_weight", float),
        ("router", str),
        ("expert_init", str),
        ("knn_k", int),
        ("bank", str),
    ],
):
    from mofe.stages import unpack_run as stage

    return stage.unpack_run(run)
