"""extract and score as one task each, or as one task per shard of the images and a task that joins the shards.

The shards of a set are an inner pipeline, so the graph around it has one task per set, with and without shards.
"""

from typing import Any

from kfp import dsl

from components.extract import extract
from components.merge_features import merge_features
from components.merge_scores import merge_scores
from components.plan_shards import plan_shards
from components.score import score
from pipelines.placement import Pool, on_accelerator, on_cpu


@dsl.pipeline(name="extract-shards")
def extract_shards(
    images: dsl.Input[dsl.Dataset],
    shards: int,
    backbone: str,
    backbone_args: dict[str, Any],
    weights: str,
    weights_digest: str,
    mofe_depth: int,
    batch_size: int,
    num_workers: int,
    precision: str,
    accelerators: str,
    accelerator: str,
    node_selector: dict[str, str],
    tolerations: list[dict[str, Any]],
    cpu: str,
    memory: str,
    credentials: str,
) -> dsl.Dataset:
    pool = Pool(accelerator, node_selector, tolerations, cpu, memory, credentials)
    numbers = plan_shards(images=images, shards=shards, batch_size=batch_size)
    on_cpu(numbers, credentials)
    with dsl.ParallelFor(numbers.output, name="extract shards") as shard:
        part = extract(
            images=images,
            backbone=backbone,
            backbone_args=backbone_args,
            weights=weights,
            weights_digest=weights_digest,
            mofe_depth=mofe_depth,
            batch_size=batch_size,
            num_workers=num_workers,
            precision=precision,
            shard=shard,
            shards=shards,
        )
        on_accelerator(part, pool, accelerators)
    whole = merge_features(parts=dsl.Collected(part.output))
    on_cpu(whole, credentials, memory="4Gi")
    return whole.output


@dsl.pipeline(name="score-shards")
def score_shards(
    images: dsl.Input[dsl.Dataset],
    detector: dsl.Input[dsl.Model],
    shards: int,
    batch_size: int,
    num_workers: int,
    precision: str,
    accelerators: str,
    accelerator: str,
    node_selector: dict[str, str],
    tolerations: list[dict[str, Any]],
    cpu: str,
    memory: str,
    credentials: str,
) -> dsl.Dataset:
    pool = Pool(accelerator, node_selector, tolerations, cpu, memory, credentials)
    numbers = plan_shards(images=images, shards=shards, batch_size=batch_size)
    on_cpu(numbers, credentials)
    with dsl.ParallelFor(numbers.output, name="score shards") as shard:
        part = score(
            images=images,
            detector=detector,
            batch_size=batch_size,
            num_workers=num_workers,
            precision=precision,
            shard=shard,
            shards=shards,
        )
        on_accelerator(part, pool, accelerators)
    whole = merge_scores(parts=dsl.Collected(part.output))
    on_cpu(whole, credentials, memory="4Gi")
    return whole.output


def extract_features(pool: Pool, accelerators: Any, shards: Any = None, **inputs: Any) -> dsl.PipelineTask:
    """Add a task, or an inner pipeline, whose only output is the features; ``shards`` is None for one task."""
    if shards is None:
        return on_accelerator(extract(**inputs), pool, accelerators)
    return extract_shards(shards=shards, accelerators=accelerators, **pool._asdict(), **inputs)


def score_set(pool: Pool, accelerators: Any, shards: Any = None, **inputs: Any) -> dsl.PipelineTask:
    """Add a task, or an inner pipeline, whose only output is the scores of a set; ``shards`` is None for one task."""
    if shards is None:
        return on_accelerator(score(**inputs), pool, accelerators)
    return score_shards(shards=shards, accelerators=accelerators, **pool._asdict(), **inputs)
