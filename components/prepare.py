"""Images from anywhere become shards in one form."""

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
    from mofe.stages import prepare as stage

    stage.prepare(
        source,
        images.path,
        name=name,
        role=role,
        digest=digest,
        images_per_class=images_per_class,
        max_rejected=max_rejected,
        synsets=synsets,
    )
