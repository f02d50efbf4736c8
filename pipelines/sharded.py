"""The pipeline mofe with extract and score in shards, many at once: where one accelerator would take too long.

python -m pipelines.sharded        # writes pipelines/compiled/sharded.yaml
"""

import inspect
from pathlib import Path
from typing import Any

from kfp import compiler, dsl

from pipelines.graph import whole_run
from pipelines.mofe import Outputs, mofe

COMPILED = Path(__file__).parent / "compiled" / "sharded.yaml"

OF_MOFE = inspect.signature(mofe.pipeline_func)
SHARDS = inspect.Parameter("shards", inspect.Parameter.POSITIONAL_OR_KEYWORD, default=8, annotation=int)


def _sharded(*given: Any) -> Outputs:
    *of_mofe, shards = given
    return Outputs(*whole_run(dict(zip(OF_MOFE.parameters, of_mofe, strict=True)), shards))


# kfp reads parameters, types, defaults and descriptions from these two
_sharded.__signature__ = OF_MOFE.replace(parameters=[*OF_MOFE.parameters.values(), SHARDS])  # type: ignore[attr-defined]
_sharded.__doc__ = f"""{inspect.getdoc(mofe.pipeline_func)}
    shards: into how many parts extract and score divide an image set, 2 or more; each is a task, and they run at once
        where there is room. A set of fewer groups of 32 batches makes fewer.
"""

sharded = dsl.pipeline(
    name="mofe-sharded",
    display_name="MoFE: in shards",
    description=(
        f"{mofe.description} extract and score are a task a shard of the images; what they make is joined, the same to "
        "the bit as without shards."
    ),
)(_sharded)


if __name__ == "__main__":
    compiler.Compiler().compile(sharded, str(COMPILED))
