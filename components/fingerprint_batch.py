"""What lies behind the images and the detector of a batch right now."""

from typing import List  # noqa: UP035  (kfp reads this spelling)

from kfp import dsl

from components.images import image


@dsl.component(base_image=image("data"), install_kfp_package=False)
def fingerprint_batch(images: List[str], detector: str) -> str:  # noqa: UP006
    from mofe.stages import fingerprint_batch as stage

    return stage.fingerprint_batch(images, detector)
