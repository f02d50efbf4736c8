"""The pipeline: from images to a detector and a report of how well it tells known from unknown.

python -m pipelines.mofe        # writes pipelines/compiled/mofe.yaml
"""

from pathlib import Path
from typing import Any, NamedTuple

from kfp import compiler, dsl

from mofe.artifacts.keywords import takes
from mofe.artifacts.recipe import KEYWORDS
from pipelines.graph import whole_run

COMPILED = Path(__file__).parent / "compiled" / "mofe.yaml"


class Outputs(NamedTuple):
    detector: dsl.Model
    metrics: dsl.Metrics
    report: dsl.HTML


@dsl.pipeline(
    name="mofe",
    display_name="MoFE: an image classifier that knows what it does not know",
    description=(
        "Fine-tunes a vision transformer as a mixture of feature experts with Dynamic-β Mixup, builds a KNN detector "
        "from it, and reports how well it tells the classes it was taught from OOD sets. Give train_data, test_data "
        "and ood_data; the other defaults are the paper's recipe for ImageNet-1K with DINOv2 ViT-B. Data: folders of "
        "class folders, Hugging Face style Parquet, tar archives, or CSV manifests (path,label), at any URI."
    ),
)
@takes(KEYWORDS, after="top_k")
def mofe(
    train_data: str,
    test_data: str,
    ood_data: list[dict[str, str]],
    synsets: str = "",
    train_images_per_class: int = 0,
    evaluation_images_per_class: int = 0,
    max_rejected: float = 0.01,
    backbone: str = "vit_base_patch14_dinov2.lvd142m",
    backbone_args: dict[str, Any] = {"img_size": 224},  # noqa: B006
    weights: str = "",
    mofe_depth: int = 1,
    text_model: str = "",
    text_weights: str = "",
    text_templates: list[str] = ["a photo of a {}"],  # noqa: B006
    text_negatives: int = 0,
    text_embeddings: str = "",
    num_experts: int = 7,
    strategy: str = "wordnet-kmeans",
    top_k: int = 1,
    knn_k: int = 0,
    bank: str = "expert",
    compare: bool = True,
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
    seed: int = 0,
    **training: Any,
) -> Outputs:
    """From images to a detector and a report.

    Args:
        train_data: training images (URI).
        test_data: in-distribution test images, of the same classes (URI).
        ood_data: out-of-distribution sets: a list of {"dataset": name, "uri": URI}; "kind": near or far puts a set
            into an average of its own.
        synsets: CSV (class,synset) for names that WordNet does not know; "" looks for synsets.csv beside the data.
        train_images_per_class: take only the first so many training images of each class; 0 takes all.
        evaluation_images_per_class: the same for the test set and the OOD sets.
        max_rejected: largest share of unreadable files that is put up with.
        backbone: a vision transformer of timm by name, or "hf-hub:…".
        backbone_args: further arguments of timm.create_model.
        weights: "" for timm's pre-trained weights, "random" for none, else the URI of a safetensors file.
        mofe_depth: how many of the last blocks become experts (M).
        text_model: for the scores text.* among those of compare: the model of open_clip whose image half the backbone
            is, by name (ViT-B-16), "hf-hub:…", or "local-dir:" and the URI of a folder; "" for none.
        text_weights: with a name: a pre-trained tag of open_clip (openai, …), or the URI of a file.
        text_templates: sentences with {} for the name of a class; the mean over them is taken.
        text_negatives: negative words of WordNet for NegLabel, at least 100 (10000 for ImageNet); 0 for none.
        text_embeddings: safetensors file (URI) with embeddings of learned prompts, for CLIPN and LSN.
        num_experts: number of experts (E). The paper finds no gain beyond 7.
        strategy: wordnet-kmeans, taxonomy, self-learning, kmeans++ or random.
        top_k: experts an image is sent to at inference.
        training: the parameters of finetune, in src/mofe/artifacts/recipe.py.
        knn_k: the KNN score is the distance to the k-th nearest training image; 0 takes 1000 per 1.28 million images.
        bank: neighbours are sought among the images of the expert that an image is routed to (expert) or all (global).
        compare: also score with the detectors of the literature, on the untouched backbone and on the fine-tuned model.
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
        seed: of everything random.
    """
    return Outputs(*whole_run({**locals(), **training}))


if __name__ == "__main__":
    compiler.Compiler().compile(mofe, str(COMPILED))
