"""The class names, and words that are far from them, as a language-image model sees them."""

from kfp import dsl

from components.images import image


@dsl.component(base_image=image("train"), install_kfp_package=False)
def texts(
    images: dsl.Input[dsl.Dataset],
    features: dsl.Input[dsl.Dataset],
    text_model: str,
    text_weights: str,
    text_templates: list[str],
    text_negatives: int,
    text_embeddings: str,
    digest: str,
    texts: dsl.Output[dsl.Artifact],
):
    arguments = {name: getattr(value, "path", value) for name, value in locals().items()}

    from mofe.stages import texts as stage

    stage.texts(**arguments)
