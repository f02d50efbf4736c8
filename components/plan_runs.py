"""Lists the runs of a comparison."""

from typing import Any

from kfp import dsl

from components.images import image


@dsl.component(base_image=image("data"), install_kfp_package=False)
def plan_runs(
    tables: list[str],
    configurations: list[dict[str, Any]],
    seeds: list[int],
    num_experts: int,
    strategy: str,
    top_k: int,
    epochs: int,
    learning_rate: float,
    mixup: str,
    mixup_scale: float,
    mixup_sigma: float,
    fold_lambda: bool,
    regulariser: str,
    regulariser_weight: float,
    negative_weight: float,
    router: str,
    expert_init: str,
    knn_k: int,
    bank: str,
) -> list[dict[str, Any]]:
    base = {name: value for name, value in locals().items() if name not in ("tables", "configurations", "seeds")}

    from mofe.stages import plan_runs as stage

    return stage.plan_runs(tables, configurations, seeds, base)
