"""Embeds the class names, and words far from them, with a language-image model."""

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
