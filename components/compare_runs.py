"""The tables of a comparison."""

from typing import Any, Dict, List  # noqa: UP035  (kfp reads these spellings)

from kfp import dsl

from components.images import image


@dsl.component(base_image=image("report"), install_kfp_package=False)
def compare_runs(
    metrics: dsl.Input[List[dsl.Metrics]],  # noqa: UP006
    runs: List[Dict[str, Any]],  # noqa: UP006
    tables: List[str],  # noqa: UP006
    configurations: List[Dict[str, Any]],  # noqa: UP006
    results: dsl.Output[dsl.Artifact],
    report: dsl.Output[dsl.HTML],
):
    from mofe.stages import compare_runs as stage

    stage.compare_runs(
        [run.path for run in metrics], runs, tables, configurations, results=results.path, report=report.path
    )
