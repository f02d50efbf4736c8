"""Computes a digest of the files that the images and the detector of a batch have now."""

from kfp import dsl

from components.images import image


@dsl.component(base_image=image("data"), install_kfp_package=False)
def fingerprint_batch(images: list[str], detector: str) -> str:
    from mofe.stages import fingerprint_batch as stage

    return stage.fingerprint_batch(images, detector)
