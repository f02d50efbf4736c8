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
    from mofe.stages import texts as stage

    stage.texts(
        images.path,
        features.path,
        texts.path,
        text_model=text_model,
        text_weights=text_weights,
        text_templates=text_templates,
        text_negatives=text_negatives,
        text_embeddings=text_embeddings,
        digest=digest,
    )
