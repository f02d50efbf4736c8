"""Pipeline sharded: mofe with extract and score in shards on many accelerators, where one would take too long.

python -m pipelines.sharded        # writes pipelines/compiled/sharded.yaml
"""

from pathlib import Path
from typing import Any

from kfp import compiler, dsl

from mofe.artifacts.keywords import keywords_of, takes
from pipelines.graph import whole_run
from pipelines.mofe import Outputs, mofe

COMPILED = Path(__file__).parent / "compiled" / "sharded.yaml"


@dsl.pipeline(
    name="mofe-sharded",
    display_name="MoFE: in shards",
    description=(
        f"{mofe.description} extract and score run as one task per shard of the images. The joined results are the "
        "same, bit by bit, as without shards."
    ),
)
@takes(keywords_of(mofe.pipeline_func))
def sharded(shards: int = 8, **given: Any) -> Outputs:
    """Make a detector and a report from images.

    Args:
        given: the parameters of the pipeline mofe.
        shards: number of parts that extract and score divide an image set into, 2 or more. Each part is a task; they
            run at once where there is room. A set with fewer groups of 32 batches has fewer parts.
    """
    return Outputs(*whole_run(given, shards))


if __name__ == "__main__":
    compiler.Compiler().compile(sharded, str(COMPILED))
