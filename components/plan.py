"""Which runs a comparison consists of."""

from typing import Any, Dict, List  # noqa: UP035  (kfp reads these spellings)

from kfp import dsl

from components.images import image


@dsl.component(base_image=image("data"), install_kfp_package=False)
def plan(
    tables: List[str],  # noqa: UP006
    configurations: List[Dict[str, Any]],  # noqa: UP006
    seeds: List[int],  # noqa: UP006
) -> List[Dict[str, Any]]:  # noqa: UP006
    from mofe.stages import plan as stage

    return stage.plan(tables, configurations, seeds)
