"""The pipeline mofe with extract and score in shards, many at once: where one accelerator would take too long.

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
        f"{mofe.description} extract and score are a task a shard of the images; what they make is joined, the same to "
        "the bit as without shards."
    ),
)
@takes(keywords_of(mofe.pipeline_func))
def sharded(shards: int = 8, **given: Any) -> Outputs:
    """From images to a detector and a report.

    Args:
        given: the parameters of the pipeline mofe.
        shards: into how many parts extract and score divide an image set, 2 or more; each is a task, and they run at
            once where there is room. A set of fewer groups of 32 batches makes fewer.
    """
    return Outputs(*whole_run(given, shards))


if __name__ == "__main__":
    compiler.Compiler().compile(sharded, str(COMPILED))
