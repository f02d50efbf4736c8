"""The two halves of the pipelines mofe, sharded and tables: from data to features, and from features to a report.

Two loops run over the OOD sets. The first prepares and checks them before any long stage begins, so that bad data fails
in minutes and not after a day. The second scores them. Kubeflow loops over parameters only, not over artifacts, so the
second loop calls prepare again and takes its result from the cache (docs/decisions/0001).
"""

from typing import Any, NamedTuple

from kfp import dsl

from components.check_classes import check_classes
from components.evaluate import evaluate
from components.finetune import finetune
from components.fingerprint import fingerprint
from components.index import index
from components.partition import partition
from components.prepare import prepare
from components.texts import texts
from mofe.artifacts.recipe import KEYWORDS
from mofe.runners.pipeline_spec import FIND_IN_CACHE
from pipelines.placement import Pool, on_accelerator, on_cpu
from pipelines.shards import extract_features, score_set


def prepare_set(ood: Any, images_per_class: Any, max_rejected: Any, credentials: Any) -> dsl.PipelineTask:
    """Add the task that prepares one OOD set; ``ood`` is the item of a loop."""
    task = prepare(
        source=ood.uri,
        name=ood.dataset,
        role="ood",
        digest=ood.digest,
        images_per_class=images_per_class,
        max_rejected=max_rejected,
        synsets="",
    )
    return on_cpu(task, credentials, cpu="2", memory="4Gi")


@dsl.pipeline(name="prepare-ood")
def prepare_ood(
    ood_data: list[dict[str, str]],
    images_per_class: int,
    max_rejected: float,
    credentials: str,
):
    with dsl.ParallelFor(ood_data) as ood:
        prepare_set(ood, images_per_class, max_rejected, credentials).set_display_name("prepare OOD set")


class Prepared(NamedTuple):
    """Outputs of the first half: image sets, features of the training images, texts of the classes.

    ``ood_data`` lists the OOD sets, and ``ood_options`` are the other arguments of :func:`prepare_set` for each.
    """

    train: Any
    test: Any
    features: Any
    texts: Any
    ood_data: Any
    ood_options: dict[str, Any]


NO_TEXTS = {"text_model": "", "text_weights": "", "text_templates": [], "text_negatives": 0, "text_embeddings": ""}
"""Text parameters of a run without a text model."""


def features_of(
    *,
    train_data: Any,
    test_data: Any,
    ood_data: Any,
    synsets: Any,
    train_images_per_class: Any,
    evaluation_images_per_class: Any,
    max_rejected: Any,
    backbone: Any,
    backbone_args: Any,
    weights: Any,
    mofe_depth: Any,
    grouping: dict[str, Any],
    text: dict[str, Any],
    inference: dict[str, Any],
    pool: Pool,
    accelerators: Any,
    shards: Any = None,
) -> Prepared:
    """Add the tasks that prepare and check all data, extract features and embed texts.

    ``grouping`` holds the number of experts and the strategy, or the runs of a comparison; they are only checked.
    ``shards`` is None where one task extracts all features and one task scores a whole set.
    """
    # files can change while their URI stays the same, so the tasks that read them take a digest as a parameter
    digests = fingerprint(
        train_data=train_data,
        test_data=test_data,
        ood_data=ood_data,
        weights=weights,
        text_model=text["text_model"],
        text_weights=text["text_weights"],
        text_embeddings=text["text_embeddings"],
        synsets=synsets,
    )
    on_cpu(digests.set_caching_options(False), pool.credentials)
    train = prepare(
        source=train_data,
        name="train",
        role="train",
        digest=digests.outputs["train"],
        images_per_class=train_images_per_class,
        max_rejected=max_rejected,
        synsets=synsets,
    ).set_display_name("prepare train")
    on_cpu(train, pool.credentials, cpu="2", memory="4Gi")
    test = prepare(
        source=test_data,
        name="id-test",
        role="test",
        digest=digests.outputs["test"],
        images_per_class=evaluation_images_per_class,
        max_rejected=max_rejected,
        synsets="",
    ).set_display_name("prepare test")
    on_cpu(test, pool.credentials, cpu="2", memory="4Gi")
    ood_options = {
        "images_per_class": evaluation_images_per_class,
        "max_rejected": max_rejected,
        "credentials": pool.credentials,
    }
    ood = prepare_ood(ood_data=digests.outputs["ood_data"], **ood_options).set_display_name("prepare OOD sets")
    checked = check_classes(train=train.outputs["images"], test=test.outputs["images"], **grouping)
    on_cpu(checked, pool.credentials)
    features = extract_features(
        pool,
        accelerators,
        shards,
        images=train.outputs["images"],
        backbone=backbone,
        backbone_args=backbone_args,
        weights=weights,
        weights_digest=digests.outputs["weights"],
        mofe_depth=mofe_depth,
        **inference,
    ).after(checked, ood)  # bad data should fail before the first long stage
    words = texts(
        images=train.outputs["images"],
        features=features.output,
        digest=digests.outputs["texts"],
        **text,
    )
    on_cpu(words, pool.credentials, cpu="4", memory="8Gi")
    return Prepared(
        train.outputs["images"],
        test.outputs["images"],
        features.output,
        words.outputs["texts"],
        digests.outputs["ood_data"],
        ood_options,
    )


class Evaluated(NamedTuple):
    """Outputs of the second half: a detector, its metrics and its report."""

    detector: Any
    metrics: Any
    report: Any


def detector_of(
    data: Prepared,
    *,
    name: Any,
    num_experts: Any,
    strategy: Any,
    seed: Any,
    training: dict[str, Any],
    knn_k: Any,
    bank: Any,
    compare: Any,
    num_workers: Any,
    precision: Any,
    inference: dict[str, Any],
    pool: Pool,
    accelerators: Any,
    train_accelerators: Any,
    shards: Any = None,
) -> Evaluated:
    """Add the tasks that divide the classes, fine-tune, index, score every set and evaluate.

    ``shards`` has the same meaning as for :func:`features_of`.
    """
    experts = partition(features=data.features, num_experts=num_experts, strategy=strategy, seed=seed)
    on_cpu(experts, pool.credentials)
    tuned = finetune(
        images=data.train,
        features=data.features,
        partition=experts.outputs["partition"],
        seed=seed,
        num_workers=num_workers,
        precision=precision,
        **training,
    )
    on_accelerator(tuned, pool, train_accelerators, tries=10, days=14)  # a retry resumes from checkpoints
    detector = index(
        images=data.train,
        features=data.features,
        model=tuned.outputs["model"],
        texts=data.texts,
        knn_k=knn_k,
        bank=bank,
        compare=compare,
        **inference,
    )
    on_accelerator(detector, pool, accelerators)
    scoring = {"detector": detector.outputs["detector"], **inference}
    id_scores = score_set(pool, accelerators, shards, images=data.test, **scoring).set_display_name("score test")
    with dsl.ParallelFor(data.ood_data, name="score OOD sets") as ood:
        images = prepare_set(ood, **data.ood_options).set_display_name(FIND_IN_CACHE).outputs["images"]
        ood_scores = score_set(pool, accelerators, shards, images=images, **scoring).set_display_name("score OOD set")
    report = evaluate(
        id_scores=id_scores.output,
        ood_scores=dsl.Collected(ood_scores.output),
        partition=experts.outputs["partition"],
        history=tuned.outputs["history"],
        name=name,
        ood_data=data.ood_data,
    )
    on_cpu(report, pool.credentials, memory="4Gi")
    return Evaluated(detector.outputs["detector"], report.outputs["metrics"], report.outputs["report"])


TRAINING = ("top_k", *(name for name in KEYWORDS if name != "seed"), "num_nodes", "node_resources", "checkpoints")
"""The parameters that only finetune takes."""


def whole_run(given: dict[str, Any], shards: Any = None) -> Evaluated:
    """Add both halves. ``given`` holds the parameters of the pipeline mofe by name."""
    return second_half(first_half(given, shards), given, shards=shards)


def first_half(given: dict[str, Any], shards: Any = None, **runs: Any) -> Prepared:
    """Call :func:`features_of` with the parameters of the pipeline mofe by name; ``runs`` are those of a comparison."""
    return features_of(
        **_named(given, "train_data", "test_data", "ood_data", "synsets", "train_images_per_class"),
        **_named(given, "evaluation_images_per_class", "max_rejected", "backbone", "backbone_args", "weights"),
        **_named(given, "mofe_depth"),
        grouping={**_named(given, "num_experts", "strategy"), **runs},
        text=_named(given, *NO_TEXTS),
        **_common(given, shards),
    )


def second_half(data: Prepared, given: dict[str, Any], *, name: Any = "", shards: Any = None) -> Evaluated:
    """Call :func:`detector_of` with the parameters of the pipeline mofe by name."""
    return detector_of(
        data,
        name=name,
        training=_named(given, *TRAINING),
        **_named(given, "num_experts", "strategy", "seed", "knn_k", "bank", "compare", "num_workers", "precision"),
        **_named(given, "train_accelerators"),
        **_common(given, shards),
    )


def _common(given: dict[str, Any], shards: Any) -> dict[str, Any]:
    return {
        "inference": {"batch_size": given["inference_batch_size"], **_named(given, "num_workers", "precision")},
        "pool": Pool(**_named(given, *Pool._fields)),
        "accelerators": given["accelerators"],
        "shards": shards,
    }


def _named(given: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: given[name] for name in names}
