"""Makes the tables of a comparison."""

from typing import Any

from kfp import dsl

from components.images import image


@dsl.component(base_image=image("report"), install_kfp_package=False)
def compare_runs(
    metrics: dsl.Input[list[dsl.Metrics]],
    runs: list[dict[str, Any]],
    tables: list[str],
    configurations: list[dict[str, Any]],
    results: dsl.Output[dsl.Artifact],
    report: dsl.Output[dsl.HTML],
):
    from mofe.stages import compare_runs as stage

    stage.compare_runs(
        [run.path for run in metrics], runs, tables, configurations, results=results.path, report=report.path
    )
