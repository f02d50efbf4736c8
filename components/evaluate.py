"""Computes metrics and a report from scores."""

from kfp import dsl

from components.images import image


@dsl.component(base_image=image("report"), install_kfp_package=False)
def evaluate(
    id_scores: dsl.Input[dsl.Dataset],
    ood_scores: dsl.Input[list[dsl.Dataset]],
    partition: dsl.Input[dsl.Artifact],
    history: dsl.Input[dsl.Artifact],
    name: str,
    ood_data: list[dict[str, str]],
    metrics: dsl.Output[dsl.Metrics],
    roc: dsl.Output[dsl.ClassificationMetrics],
    report: dsl.Output[dsl.HTML],
):
    from mofe.stages import evaluate as stage

    scores = [id_scores.path, *(table.path for table in ood_scores)]
    written = {"metrics": metrics.path, "roc": roc.path, "report": report.path}
    figures, curve = stage.evaluate(scores, partition.path, history.path, name=name, ood_data=ood_data, **written)
    for figure, value in figures.items():
        metrics.log_metric(figure, value)
    roc.log_roc_curve(curve.fpr.tolist(), curve.tpr.tolist(), curve.thresholds.tolist())
