"""The pipeline that asks a trained detector about very many images.

python -m pipelines.detect        # writes pipelines/compiled/detect.yaml
"""

from pathlib import Path
from typing import Any, NamedTuple

from kfp import compiler, dsl

from components.fingerprint_batch import fingerprint_batch
from components.list_files import list_files
from components.merge_predictions import merge_predictions
from components.predict import predict
from pipelines.placement import Pool, on_accelerator, on_cpu

COMPILED = Path(__file__).parent / "compiled" / "detect.yaml"


class Outputs(NamedTuple):
    predictions: dsl.Dataset
    counts: dsl.Metrics


@dsl.pipeline(
    name="mofe-detect",
    display_name="MoFE: predictions on many images",
    description=(
        "Asks a trained detector about every image of folders, globs, tar archives or Parquet files at any URI, many "
        "shards at once: what each shows, and whether it is like anything that was taught. Writes one Parquet data "
        "set, a row an image, and counts."
    ),
)
def detect(
    images: list[str],
    detector: str,
    shards: int = 8,
    threshold: str = "tpr=0.95",
    score: str = "knn",
    neighbours: int = 0,
    batch_size: int = 128,
    accelerator: str = "nvidia.com/gpu",
    accelerators: str = "1",
    node_selector: dict[str, str] = {},  # noqa: B006
    tolerations: list[dict[str, Any]] = [],  # noqa: B006
    cpu: str = "8",
    memory: str = "32Gi",
    credentials: str = "mofe-credentials",
) -> Outputs:
    """Predictions on many images.

    Args:
        images: files, folders, globs, tar archives, Parquet files with a column image (URIs); or the URIs of .txt files
            that list such places, one a line, where there are many.
        detector: the folder of the detector, as index writes it (URI).
        shards: how many parts the files are divided into; each is a task, and they run at once where there is room.
        threshold: tpr=0.95 (keep at least this share of known images), or the least score of a known image.
        score: which score decides: knn, msp, max_logit, energy, or one of those compared, for example tuned.vim.
        neighbours: how many of the nearest known images to name.
        batch_size: images at once.
        accelerator: on a cluster: resource name of the accelerators, for example nvidia.com/gpu or amd.com/gpu.
        accelerators: on a cluster: how many the pod of a shard has; 0 computes on CPUs.
        node_selector: on a cluster: labels of the nodes of the shards.
        tolerations: on a cluster: tolerations of the shards, as Kubernetes writes them.
        cpu: on a cluster: CPUs that a shard requests.
        memory: on a cluster: memory that a shard requests, and may use.
        credentials: on a cluster: a Secret whose keys are variables (AWS_ACCESS_KEY_ID, MLFLOW_TRACKING_URI, …); it may
            be missing.
    """
    pool = Pool(accelerator, node_selector, tolerations, cpu, memory, credentials)
    # what lies behind a URI can change without the URI changing: its digest is a parameter of what reads it. The shards
    # get it through the list of files, since kfp.local 2.17 hands a loop its item in place of any task's parameter
    surveyed = fingerprint_batch(images=images, detector=detector)
    on_cpu(surveyed.set_caching_options(False), credentials)
    divided = list_files(images=images, digest=surveyed.output, shards=shards)
    on_cpu(divided, credentials, memory="4Gi")
    with dsl.ParallelFor(divided.outputs["Output"], name="shards") as shard:
        judged = predict(
            files=divided.outputs["files"],
            shard=shard,
            detector=detector,
            threshold=threshold,
            score=score,
            neighbours=neighbours,
            batch_size=batch_size,
        )
        on_accelerator(judged, pool, accelerators)
    collected = merge_predictions(shards=dsl.Collected(judged.outputs["predictions"]))
    on_cpu(collected, credentials, memory="4Gi")
    return Outputs(predictions=collected.outputs["predictions"], counts=collected.outputs["counts"])


if __name__ == "__main__":
    compiler.Compiler().compile(detect, str(COMPILED))
