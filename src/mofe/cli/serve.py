"""``mofe serve``: classify new images over HTTP."""

from mofe.cli.places import check_places
from mofe.errors import MofeError


def serve(
    detector: str,
    port: int = 8080,
    name: str = "mofe",
    threshold: str = "tpr=0.95",
    score: str = "knn",
    max_megabytes: int = 32,
    max_images: int = 64,
) -> None:
    """Serve a trained detector over HTTP by KServe's Open Inference Protocol; needs mofe[serve].

    POST /v2/models/NAME/infer with a tensor 'image' of BYTES; GET /v2/health/ready, /metrics.

    Example: mofe serve --detector s3://bucket/detector --port 8080

    Args:
        detector: path or URI of the detector's folder, written by index.
        port: port to listen on.
        name: name of the model in the address.
        threshold: tpr=0.95 (accept at least this share of known images), or the lowest score of a known image.
        score: score that decides, as for detect.
        max_megabytes: largest size of a request's body.
        max_images: largest number of images in a request; they are one batch.
    """
    from mofe.parameters.rules import check_values

    check_places("--detector", detector)
    limits = {"port": port, "max_megabytes": max_megabytes, "max_images": max_images}
    check_values({"threshold": threshold, "score": score, **limits}, "mofe serve")
    try:
        from mofe.inference.server import serve as answer
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("mofe"):
            raise
        raise MofeError(f"serving needs {error.name}: pip install 'mofe[serve]'") from error
    answer(
        detector, port=port, name=name, threshold=threshold, score=score, max_megabytes=max_megabytes,
        max_images=max_images,
    )  # fmt: skip
