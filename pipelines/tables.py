"""The paper's tables: many configurations with several seeds, on one preparation and extraction of features.

    python -m pipelines.tables      # writes pipelines/compiled/tables.yaml
    mofe run -f params.yaml --pipeline tables

One loop over all runs: plan_runs lists them (equal rows of several tables are one run), unpack_run puts the settings of
a run over the parameters, the second half of the main pipeline follows, and compare_runs sets all beside the paper.
"""

from pathlib import Path
from typing import Any, NamedTuple

from kfp import compiler, dsl

from components.compare_runs import compare_runs
from components.plan_runs import plan_runs
from components.unpack_run import unpack_run
from mofe.configurations import CHANGEABLE
from pipelines.graph import NO_TEXTS, TRAINING, detector_of, features_of
from pipelines.placement import Pool, on_cpu

COMPILED = Path(__file__).parent / "compiled" / "tables.yaml"


class Outputs(NamedTuple):
    results: dsl.Artifact
    report: dsl.HTML


@dsl.pipeline(
    name="mofe-tables",
    display_name="MoFE: the paper's tables on your data",
    description=(
        "Runs the configurations of the paper's tables (components, number of experts, grouping, Mixup, baselines), "
        "and your own, with several seeds, and sets their FPR95 and AUROC beside the paper's. All other parameters are "
        "those of the pipeline mofe, and hold for every run unless its configuration changes them."
    ),
)
def tables(
    train_data: str,
    test_data: str,
    ood_data: list[dict[str, str]],
    tables: list[str] = ["1-3", "4", "5", "6", "7"],  # noqa: B006
    configurations: list[dict[str, Any]] = [],  # noqa: B006
    seeds: list[int] = [0, 1, 2],  # noqa: B006
    synsets: str = "",
    train_images_per_class: int = 0,
    evaluation_images_per_class: int = 0,
    max_rejected: float = 0.01,
    backbone: str = "vit_base_patch14_dinov2.lvd142m",
    backbone_args: dict[str, Any] = {"img_size": 224},  # noqa: B006
    weights: str = "",
    mofe_depth: int = 1,
    num_experts: int = 7,
    strategy: str = "wordnet-kmeans",
    top_k: int = 1,
    epochs: int = 40,
    probe_epochs: int = 3,
    probe_learning_rate: float = 1e-3,
    batch_size: int = 1024,
    micro_batch_size: int = 128,
    learning_rate: float = 1e-4,
    min_learning_rate: float = 1e-6,
    warmup_epochs: float = 5.0,
    weight_decay: float = 0.05,
    layer_decay: float = 0.75,
    drop_path: float = 0.1,
    clip_norm: float = 1.0,
    augmentation: str = "randaugment",
    mixup: str = "dynamic",
    mixup_scale: float = 0.9,
    mixup_sigma: float = 1.0,
    fold_lambda: bool = True,
    regulariser: str = "label-smoothing",
    regulariser_weight: float = 0.1,
    negative_weight: float = 1.0,
    router: str = "cluster",
    expert_init: str = "backbone",
    validation_fraction: float = 0.05,
    knn_k: int = 0,
    bank: str = "expert",
    inference_batch_size: int = 128,
    num_workers: int = 4,
    precision: str = "auto",
    checkpoints: str = "",
    accelerator: str = "nvidia.com/gpu",
    accelerators: str = "1",
    train_accelerators: str = "1",
    num_nodes: int = 1,
    node_resources: dict[str, Any] = {},  # noqa: B006
    node_selector: dict[str, str] = {},  # noqa: B006
    tolerations: list[dict[str, Any]] = [],  # noqa: B006
    cpu: str = "8",
    memory: str = "32Gi",
    credentials: str = "mofe-credentials",
) -> Outputs:
    """From images to the tables of a comparison.

    Args:
        train_data: training images (URI).
        test_data: in-distribution test images, of the same classes (URI).
        ood_data: out-of-distribution sets: a list of {"dataset": name, "uri": URI}; "kind": near or far puts a set
            into an average of its own.
        tables: of the paper: 1-3, 4 (components), 5 (number of experts), 6 (grouping), 7 (Mixup); or code, where the
            authors' code departs from the paper.
        configurations: further ones: a list of {"name": …, and parameters that it changes}.
        seeds: of everything random; each configuration is run with every one.
        synsets: CSV (class,synset) for names that WordNet does not know; "" looks for synsets.csv beside the data.
        train_images_per_class: take only the first so many training images of each class; 0 takes all.
        evaluation_images_per_class: the same for the test set and the OOD sets.
        max_rejected: largest share of unreadable files that is put up with.
        backbone: a vision transformer of timm by name, or "hf-hub:…".
        backbone_args: further arguments of timm.create_model.
        weights: "" for timm's pre-trained weights, "random" for none, else the URI of a safetensors file.
        mofe_depth: how many of the last blocks become experts (M).
        num_experts: number of experts (E). The paper finds no gain beyond 7.
        strategy: wordnet-kmeans, taxonomy, self-learning, kmeans++ or random.
        top_k: experts an image is sent to at inference.
        epochs: of fine-tuning; 0 leaves the pre-trained backbone with a linear probe.
        probe_epochs: of the linear probe that router and heads begin with.
        probe_learning_rate: of the linear probe.
        batch_size: images an optimiser step, over all devices and accumulated micro-batches.
        micro_batch_size: images at once on a device.
        learning_rate: highest learning rate, of the top layer.
        min_learning_rate: where the cosine ends.
        warmup_epochs: of linear warm-up.
        weight_decay: of AdamW, for matrices.
        layer_decay: factor on the learning rate from each layer to the one below.
        drop_path: stochastic depth of the last block.
        clip_norm: largest norm of the gradient; 0 does not clip.
        augmentation: randaugment, crop-flip, crop (no mirror images) or none.
        mixup: dynamic (σ by class accuracy), fixed (σ = mixup_sigma) or none.
        mixup_scale: w in σ = 1 - w·s, from 0 to 1.
        mixup_sigma: σ of fixed Mixup.
        fold_lambda: whether λ is folded to [½, 1], so that the image whose expert is trained is the larger part.
        regulariser: label-smoothing, l2 or none.
        regulariser_weight: smoothed share of the target, or factor of the squared norm.
        negative_weight: of images of other clusters in an expert's loss.
        router: cluster (an output an expert) or class (an output a class; the likeliest class decides).
        expert_init: backbone (experts are copies of its last blocks as they are) or naive (after fine-tuning without
            experts; twice the time).
        validation_fraction: of each class's training images, set aside to measure s and to set thresholds.
        knn_k: the KNN score is the distance to the k-th nearest training image; 0 takes 1000 per 1.28 million images.
        bank: neighbours are sought among the images of the expert that an image is routed to (expert) or all (global).
        inference_batch_size: images at once where nothing is trained.
        num_workers: processes that decode images.
        precision: auto (bf16 where the hardware has it), bf16 or fp32.
        checkpoints: folder (URI) from which an interrupted training goes on; "" keeps none.
        accelerator: on a cluster: resource name of the accelerators, for example nvidia.com/gpu or amd.com/gpu.
        accelerators: on a cluster: how many a pod of extract, index and score has; 0 computes on CPUs.
        train_accelerators: on a cluster: how many the pod of finetune has; it uses all. If num_nodes > 1 it only waits,
            and needs none.
        num_nodes: on a cluster: pods that finetune trains on together; more than one need Kubeflow Trainer.
        node_resources: on a cluster, if num_nodes > 1: what each of them requests where that is not what finetune's
            pod does, for example {"nvidia.com/gpu": 8}.
        node_selector: on a cluster: labels of the nodes of these stages.
        tolerations: on a cluster: tolerations of these stages, as Kubernetes writes them.
        cpu: on a cluster: CPUs that these stages request.
        memory: on a cluster: memory that these stages request, and may use.
        credentials: on a cluster: a Secret whose keys are variables (AWS_ACCESS_KEY_ID, MLFLOW_TRACKING_URI, …); it may
            be missing.
    """
    given = locals()
    base = {name: given[name] for name in CHANGEABLE}
    planned = plan_runs(tables=tables, configurations=configurations, seeds=seeds, **base)
    on_cpu(planned, credentials)
    inference = {"batch_size": inference_batch_size, "num_workers": num_workers, "precision": precision}
    pool = Pool(accelerator, node_selector, tolerations, cpu, memory, credentials)
    data = features_of(
        train_data=train_data,
        test_data=test_data,
        ood_data=ood_data,
        synsets=synsets,
        train_images_per_class=train_images_per_class,
        evaluation_images_per_class=evaluation_images_per_class,
        max_rejected=max_rejected,
        backbone=backbone,
        backbone_args=backbone_args,
        weights=weights,
        mofe_depth=mofe_depth,
        text=NO_TEXTS,
        inference=inference,
        pool=pool,
        accelerators=accelerators,
    )
    with dsl.ParallelFor(planned.output, name="runs") as run:
        configured = unpack_run(run=run)
        on_cpu(configured, credentials)
        chosen = configured.outputs
        judged = detector_of(
            data,
            name=chosen["name"],
            num_experts=chosen["num_experts"],
            strategy=chosen["strategy"],
            seed=chosen["seed"],
            training={name: (chosen if name in CHANGEABLE else given)[name] for name in TRAINING},
            knn_k=chosen["knn_k"],
            bank=chosen["bank"],
            compare=False,
            num_workers=num_workers,
            precision=precision,
            inference=inference,
            pool=pool,
            accelerators=accelerators,
            train_accelerators=train_accelerators,
        )
    compared = compare_runs(
        metrics=dsl.Collected(judged.metrics), runs=planned.output, tables=tables, configurations=configurations
    )
    on_cpu(compared, credentials)
    return Outputs(results=compared.outputs["results"], report=compared.outputs["report"])


if __name__ == "__main__":
    compiler.Compiler().compile(tables, str(COMPILED))
