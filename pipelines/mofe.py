"""Pipeline mofe: from images to a detector, and a report of how well it separates known from unknown images.

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
        "from it, and reports how well it separates images of the classes it was trained on from OOD sets. Give "
        "train_data, test_data and ood_data; the other defaults are the paper's recipe for ImageNet-1K with DINOv2 "
        "ViT-B. Data: folders of class folders, Hugging Face style Parquet, tar archives, or CSV manifests "
        "(path,label), at any URI."
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
    """Make a detector and a report from images.

    Args:
        train_data: training images (URI).
        test_data: in-distribution test images, of the same classes (URI).
        ood_data: out-of-distribution sets: a list of {"dataset": name, "uri": URI}. Sets with the same "kind", near or
            far, get their own average.
        synsets: CSV (class,synset) for names that WordNet does not know; "" looks for synsets.csv beside the data.
        train_images_per_class: number of training images to take of each class, the first ones; 0 takes all.
        evaluation_images_per_class: the same for the test set and the OOD sets.
        max_rejected: largest share of unreadable files that is allowed, from 0 to 1.
        backbone: name of a vision transformer of timm, or "hf-hub:…".
        backbone_args: further arguments of timm.create_model.
        weights: URI of a safetensors file; "" takes timm's pre-trained weights, "random" takes none.
        mofe_depth: number of last blocks that become experts (M).
        text_model: model of open_clip whose image tower is the backbone, for the scores text.* of compare: a name
            (ViT-B-16), "hf-hub:…", or "local-dir:" and the URI of a folder; "" for none.
        text_weights: weights for a name of open_clip: a pre-trained tag (openai, …), or the URI of a file.
        text_templates: sentences with {} for the name of a class; their embeddings are averaged.
        text_negatives: number of negative words of WordNet for NegLabel, at least 100 (10000 for ImageNet); 0 for none.
        text_embeddings: safetensors file (URI) with embeddings of learned prompts, for CLIPN and LSN.
        num_experts: number of experts (E). The paper finds no gain beyond 7.
        strategy: wordnet-kmeans, taxonomy, self-learning, kmeans++ or random.
        top_k: number of experts that an image is sent to at inference.
        training: the parameters of finetune, in src/mofe/artifacts/recipe.py.
        knn_k: rank of the neighbour whose distance is the KNN score; 0 takes 1000 per 1.28 million training images.
        bank: expert (search among the images of the expert that an image is routed to) or global (among all images).
        compare: whether to score with the published baselines too, on the pre-trained backbone and on the model.
        inference_batch_size: images per batch in extract, index and score.
        num_workers: processes that decode images.
        precision: auto (bf16 where the hardware has it), bf16 or fp32.
        checkpoints: folder (URI) for checkpoints, from which an interrupted training resumes; "" keeps none.
        accelerator: on a cluster: resource name of the accelerators, for example nvidia.com/gpu or amd.com/gpu.
        accelerators: on a cluster: number of accelerators of each pod of extract, index and score; 0 computes on CPUs.
        train_accelerators: on a cluster: number of accelerators of finetune's pod, which uses all of them. Give 0 if
            num_nodes > 1, because the pod then only waits.
        num_nodes: on a cluster: number of pods that train together; more than one need Kubeflow Trainer.
        node_resources: on a cluster, if num_nodes > 1: resources that each of these pods requests in place of those of
            finetune's pod, for example {"nvidia.com/gpu": 8}.
        node_selector: on a cluster: labels of the nodes for extract, finetune, index and score.
        tolerations: on a cluster: tolerations of the pods of these stages, in the syntax of Kubernetes.
        cpu: on a cluster: CPUs that each of these pods requests.
        memory: on a cluster: memory that each of these pods requests; also its limit.
        credentials: on a cluster: name of a Secret whose keys are environment variables (AWS_ACCESS_KEY_ID,
            MLFLOW_TRACKING_URI, …); the Secret may be missing.
        seed: random seed of the whole run.
    """
    return Outputs(*whole_run({**locals(), **training}))


if __name__ == "__main__":
    compiler.Compiler().compile(mofe, str(COMPILED))
