"""Divides the files of a batch into shards."""

from kfp import dsl

from components.images import image


@dsl.component(base_image=image("data"), install_kfp_package=False)
def list_files(images: list[str], digest: str, shards: int, files: dsl.Output[dsl.Dataset]) -> list[int]:
    from mofe.stages import list_files as stage

    return stage.list_files(images, files.path, digest=digest, shards=shards)
