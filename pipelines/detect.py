"""Pipeline detect: predictions of a trained detector on very many images.

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
        "Predicts the class of each image in folders, globs, tar archives or Parquet files at any URI, and whether the "
        "image belongs to any known class. Many shards run at once. Writes one Parquet data set with one row per "
        "image, and counts."
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
    """Predict on many images with a trained detector.

    Args:
        images: files, folders, globs, tar archives, Parquet files with a column image (URIs); or .txt files that list
            such places, one per line.
        detector: folder of the detector that index wrote (URI).
        shards: number of parts that the files are divided into. Each part is a task; they run at once where there is
            room.
        threshold: tpr=0.95 (accept at least this share of known images), or the least score of a known image.
        score: score that decides: knn, msp, max_logit, energy, or a published baseline, for example tuned.vim.
        neighbours: number of nearest known images to name.
        batch_size: images per batch.
        accelerator: on a cluster: resource name of the accelerators, for example nvidia.com/gpu or amd.com/gpu.
        accelerators: on a cluster: number of accelerators of a shard's pod; 0 computes on CPUs.
        node_selector: on a cluster: labels of the nodes for the shards.
        tolerations: on a cluster: tolerations of the shards' pods, in the syntax of Kubernetes.
        cpu: on a cluster: CPUs that a shard requests.
        memory: on a cluster: memory that a shard requests; also its limit.
        credentials: on a cluster: name of a Secret whose keys are environment variables (AWS_ACCESS_KEY_ID,
            MLFLOW_TRACKING_URI, …); the Secret may be missing.
    """
    pool = Pool(accelerator, node_selector, tolerations, cpu, memory, credentials)
    # files can change while their URI stays the same, so the tasks that read them take a digest as a parameter. The
    # shards take it from the list of files, because kfp.local 2.17 gives every parameter inside a loop the loop's item
    digest = fingerprint_batch(images=images, detector=detector)
    on_cpu(digest.set_caching_options(False), credentials)
    listed = list_files(images=images, digest=digest.output, shards=shards)
    on_cpu(listed, credentials, memory="4Gi")
    with dsl.ParallelFor(listed.outputs["Output"], name="shards") as shard:
        predicted = predict(
            files=listed.outputs["files"],
            shard=shard,
            detector=detector,
            threshold=threshold,
            score=score,
            neighbours=neighbours,
            batch_size=batch_size,
        )
        on_accelerator(predicted, pool, accelerators)
    merged = merge_predictions(shards=dsl.Collected(predicted.outputs["predictions"]))
    on_cpu(merged, credentials, memory="4Gi")
    return Outputs(predictions=merged.outputs["predictions"], counts=merged.outputs["counts"])


if __name__ == "__main__":
    compiler.Compiler().compile(detect, str(COMPILED))
