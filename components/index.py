"""Builds the detector: one KNN index of known images per expert, thresholds, and other detectors to compare."""

from kfp import dsl

from components.images import image


@dsl.component(base_image=image("score"), install_kfp_package=False)
def index(
    images: dsl.Input[dsl.Dataset],
    features: dsl.Input[dsl.Dataset],
    model: dsl.Input[dsl.Model],
    texts: dsl.Input[dsl.Artifact],
    knn_k: int,
    bank: str,
    compare: bool,
    batch_size: int,
    num_workers: int,
    precision: str,
    detector: dsl.Output[dsl.Model],
):
    arguments = {name: getattr(value, "path", value) for name, value in locals().items()}

    from mofe.stages import index as stage

    stage.index(**arguments)
