"""Pipeline tables: the paper's tables, from many configurations with several seeds on one set of features.

    python -m pipelines.tables      # writes pipelines/compiled/tables.yaml
    mofe run -f params.yaml --pipeline tables

One loop goes over all runs. plan_runs lists them; equal rows of several tables are one run. In the loop, unpack_run
returns the parameters of a run, and the second half of the pipeline mofe follows. compare_runs compares all runs with
the paper.
"""

from pathlib import Path
from typing import Any, NamedTuple

from kfp import compiler, dsl

from components.compare_runs import compare_runs
from components.plan_runs import plan_runs
from components.unpack_run import unpack_run
from mofe.artifacts.keywords import keywords_of, takes
from mofe.report.configurations import CHANGEABLE
from pipelines.graph import NO_TEXTS, first_half, second_half
from pipelines.mofe import mofe
from pipelines.placement import on_cpu

COMPILED = Path(__file__).parent / "compiled" / "tables.yaml"

MOFE_KEYWORDS = {n: k for n, k in keywords_of(mofe.pipeline_func).items() if n not in {"seed", "compare", *NO_TEXTS}}


class Outputs(NamedTuple):
    results: dsl.Artifact
    report: dsl.HTML


@dsl.pipeline(
    name="mofe-tables",
    display_name="MoFE: the paper's tables on your data",
    description=(
        "Runs the configurations of the paper's tables (components, number of experts, grouping, Mixup, baselines), "
        "and your own, with several seeds, and compares their FPR95 and AUROC with the paper's. All other parameters "
        "are those of the pipeline mofe, and hold for every run unless its configuration changes them."
    ),
)
@takes(MOFE_KEYWORDS)
def tables(
    tables: list[str] = ["1-3", "4", "5", "6", "7"],  # noqa: B006
    configurations: list[dict[str, Any]] = [],  # noqa: B006
    seeds: list[int] = [0, 1, 2],  # noqa: B006
    **given: Any,
) -> Outputs:
    """Make the tables of a comparison from images.

    Args:
        given: the parameters of the pipeline mofe that hold for every run.
        tables: tables of the paper: 1-3, 4 (components), 5 (number of experts), 6 (grouping), 7 (Mixup); or code, for
            the points where the authors' code differs from the paper.
        configurations: further configurations: a list of {"name": …, and the parameters that it changes}.
        seeds: random seeds; each configuration runs with every seed.
    """
    base = {name: given[name] for name in CHANGEABLE}
    planned = plan_runs(tables=tables, configurations=configurations, seeds=seeds, **base)
    on_cpu(planned, given["credentials"])
    given |= {**NO_TEXTS, "compare": False}
    data = first_half(given, runs=planned.output)
    with dsl.ParallelFor(planned.output, name="runs") as run:
        configured = unpack_run(run=run)
        on_cpu(configured, given["credentials"])
        chosen = configured.outputs
        run_parameters = {**given, **{name: chosen[name] for name in (*CHANGEABLE, "seed")}}
        evaluated = second_half(data, run_parameters, name=chosen["name"])
    compared = compare_runs(
        metrics=dsl.Collected(evaluated.metrics), runs=planned.output, tables=tables, configurations=configurations
    )
    on_cpu(compared, given["credentials"])
    return Outputs(results=compared.outputs["results"], report=compared.outputs["report"])


if __name__ == "__main__":
    compiler.Compiler().compile(tables, str(COMPILED))
