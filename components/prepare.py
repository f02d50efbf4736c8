"""Reads images from any source and writes them as shards in one format."""

from kfp import dsl

from components.images import image


@dsl.component(base_image=image("data"), install_kfp_package=False)
def prepare(
    source: str,
    name: str,
    role: str,
    digest: str,
    images_per_class: int,
    max_rejected: float,
    synsets: str,
    images: dsl.Output[dsl.Dataset],
):
    arguments = {name: getattr(value, "path", value) for name, value in locals().items()}

    from mofe.stages import prepare as stage

    stage.prepare(**arguments)
