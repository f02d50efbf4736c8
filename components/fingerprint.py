"""Computes digests of the files that the data URIs point to now."""

from typing import NamedTuple

from kfp import dsl

from components.images import image


@dsl.component(base_image=image("data"), install_kfp_package=False)
def fingerprint(
    train_data: str,
    test_data: str,
    ood_data: list[dict[str, str]],
    weights: str,
    text_model: str,
    text_weights: str,
    text_embeddings: str,
    synsets: str,
) -> NamedTuple(
    "Fingerprints",
    [("train", str), ("test", str), ("weights", str), ("texts", str), ("ood_data", list[dict[str, str]])],
):
    arguments = dict(locals())

    from mofe.stages import fingerprint as stage

    return stage.fingerprint(**arguments)
