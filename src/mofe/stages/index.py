"""Builds the detector: one KNN index of known images per expert, thresholds, and other detectors to compare."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import torch

from mofe.artifacts.detector import BANK_SCHEMA, Bank, DetectorInfo, calibration_schema
from mofe.artifacts.features import Features
from mofe.artifacts.image_set import ImageSet
from mofe.artifacts.image_shards import ImageShards
from mofe.artifacts.model import ModelConfig
from mofe.artifacts.texts import TextInfo
from mofe.data.validation_split import validation_mask
from mofe.detection.baselines import Baselines, Embedded, KnownImages
from mofe.detection.knn import ExpertKNN, default_k
from mofe.detection.metrics import threshold_at_tpr
from mofe.detection.seen import Seen
from mofe.detection.spaces import Head
from mofe.detection.texts import Texts, read_texts
from mofe.device import resolve_precision
from mofe.errors import MofeError
from mofe.inference.detector import SCORES, scores_of, seen_by, write_detector
from mofe.inference.embedding import EmbedOptions, create_pretrained, embed_shards, group_batches
from mofe.inference.local_score import LocalScores
from mofe.models.checkpoint import load_model
from mofe.models.mofe import MoFE, MoFEOutput
from mofe.tracking import journal

MLFLOW_MODEL = "mofe.inference.mlflow_model"
"""Module that MLflow runs to serve a detector. Only MLflow imports it, because importing MLflow takes seconds."""


def index(
    images: str,
    features: str,
    model: str,
    detector: str,
    *,
    texts: str = "",
    knn_k: int = 0,
    bank: Bank = "expert",
    compare: bool = True,
    batch_size: int = 128,
    num_workers: int = 4,
    precision: str = "auto",
) -> None:
    """Build the detector: embed the training images, index them by expert, set thresholds.

    Each training image is embedded by the expert of its class. The validation images are not in the bank. They are
    routed and scored like new images; their scores calibrate p-values and give the thresholds that keep 95 % of known
    images.

    Args:
        images: training images written by prepare (path or URI).
        features: features of these images written by extract (path or URI).
        model: model written by finetune from these images.
        detector: path or URI of the folder to write the detector to.
        texts: texts of the classes written by texts (path or URI); "" for none.
        knn_k: rank of the neighbour whose distance is the score. 0 takes a rank in proportion to the number of
            training images, validation images included: 1000 for the 1 281 167 of ImageNet-1K, at least 5.
        bank: expert (search among the images of the expert that an image is routed to) or global (among all images).
        compare: whether to fit the published baselines too, on the pre-trained backbone and on the model.
        batch_size: images per batch.
        num_workers: processes that decode images.
        precision: auto (bf16 where the hardware has it), bf16 or fp32. The detector keeps what auto became here.

    Raises:
        MofeError: the inputs do not belong together, or a parameter is invalid.
    """
    with journal.stage_run("index", {"knn_k": knn_k, "bank": bank, "compare": compare}) as run:
        _check_arguments(knn_k, bank)
        sources = _read_sources(images, features, model, texts)
        resolved = resolve_precision(precision)
        options = EmbedOptions(sources.config.backbone.preprocessing, batch_size, num_workers, resolved)
        k = knn_k or default_k(len(sources.shards))

        bank_ND = _embed_bank(sources, options)
        knn = _build_knn(sources, bank_ND, k, bank)
        output, seen = _embed_held(sources, options, compare)
        baselines = _fit_baselines(sources, bank_ND, seen, k) if compare else None
        calibration = scores_of(output, knn).values | (baselines.score(seen) if baselines else {})
        thresholds = {name: threshold_at_tpr(values) for name, values in calibration.items()}

        info = DetectorInfo(
            made_from=sources.made_from,
            knn_k=k,
            bank=bank,
            bank_sizes=sources.bank_sizes,
            thresholds=thresholds,
            num_validation=len(sources.held),
            precision=resolved,
            baselines=baselines.names if baselines else (),
            parameters={
                **_parameters(sources.shards.info, sources.config),
                **(sources.text_info.parameters if sources.text_info else {}),
                **{"knn_k": knn_k, "bank": bank, "compare": compare, "precision": precision},
            },
        )
        write_detector(
            detector,
            info,
            model=(sources.network, sources.config),
            knn=knn,
            baselines=baselines,
            bank=_bank_table(sources),
            calibration=pa.table(calibration, schema=calibration_schema(calibration)),
        )
        figures = {f"threshold.{name}": thresholds[name] for name in SCORES}
        run.metrics({"knn_k": k, "bank": len(bank_ND), **figures})
        run.detector(detector, MLFLOW_MODEL)


def _check_arguments(knn_k: int, bank: str) -> None:
    if bank not in get_args(Bank):
        raise MofeError(f"bank = {bank!r} is not one of {', '.join(get_args(Bank))}")
    if knn_k < 0:
        raise MofeError(f"knn_k = {knn_k} must be at least 1, or 0 to choose k in proportion to the training images")


@dataclass(frozen=True, eq=False)
class _Sources:
    """Inputs that a detector is made from. N counts all images."""

    shards: ImageShards
    features: Features
    network: MoFE
    config: ModelConfig
    text_info: TextInfo | None
    texts: Texts | None

    @property
    def made_from(self) -> dict[str, str]:
        """Identities of the artifacts that the detector is made from."""
        texts = {"texts": self.text_info.identity} if self.text_info else {}
        return {"model": self.config.identity, **self.config.made_from, **texts}

    @cached_property
    def experts_C(self) -> np.ndarray:
        """The expert of each class."""
        return np.array(self.config.partition.expert_of_class)

    @cached_property
    def is_validation_N(self) -> np.ndarray:
        """Whether each image was set aside from training."""
        return validation_mask(self.shards.labels_N, self.config.validation_fraction, self.config.seed)

    @cached_property
    def known(self) -> np.ndarray:
        """Positions of the images that the model was trained on: those of the bank."""
        return np.flatnonzero(~self.is_validation_N)

    @cached_property
    def held(self) -> np.ndarray:
        """Positions of the validation images."""
        return np.flatnonzero(self.is_validation_N)

    @cached_property
    def stored_ND(self) -> np.ndarray:
        """Embedding of each image by the pre-trained backbone, read at first use."""
        return self.features.column("embedding")

    @cached_property
    def bank_experts_N(self) -> np.ndarray:
        """The expert of the class of each image in the bank."""
        return self.experts_C[self.shards.labels_N[self.known]]

    @cached_property
    def bank_sizes(self) -> tuple[int, ...]:
        """Number of images of each expert in the bank."""
        return tuple(np.bincount(self.bank_experts_N, minlength=self.network.num_experts).tolist())


def _read_sources(images: str, features: str, model: str, texts: str) -> _Sources:
    """Read the inputs and check that they belong to one run.

    Raises:
        MofeError: an input is missing, damaged, or belongs to another run.
    """
    shards = ImageShards(images)
    network, config = load_model(model)
    if not config.check_source("images", shards.info) or config.partition.classes != shards.info.classes:
        raise MofeError(f"the model {model} was not trained on the images {images}: give the files of one run")
    found = Features(features)
    if not config.check_source("features", found.info):
        raise MofeError(f"the model {model} was not trained with the features {features}: give the files of one run")
    about, words = read_texts(texts) if texts else (None, None)
    if about and (about.classes, about.backbone) != (shards.info.classes, config.backbone):
        raise MofeError(
            f"the texts {texts} are for other classes than those of {images}, or for another backbone than that of "
            f"{model}: run texts again"
        )
    if about and about.made_from.get("features") != config.made_from["features"]:
        raise MofeError(f"the texts {texts} and the model {model} were made from different features: run texts again")
    return _Sources(shards, found, network, config, about, words)


def _embed_bank(sources: _Sources, options: EmbedOptions) -> np.ndarray:
    """Embed the images of the bank (N, D), each by the expert of its class."""
    bank_ND = np.empty((len(sources.known), sources.network.dim), np.float32)
    start = 0
    for positions_B, _, (output,), _ in embed_shards(
        [sources.network],
        sources.shards,
        options,
        label="index",
        positions=sources.known,
        expert_of_class=sources.experts_C,
    ):
        bank_ND[start : start + len(positions_B)] = output.embedding_BD
        start += len(positions_B)
    return bank_ND


def _build_knn(sources: _Sources, bank_ND: np.ndarray, k: int, bank: Bank) -> ExpertKNN:
    knn = ExpertKNN.build(bank_ND, sources.bank_experts_N if bank == "expert" else None, k)
    smallest = min(sources.bank_sizes)
    if bank == "expert" and smallest < k:
        expert = sources.bank_sizes.index(smallest)
        print(f"expert {expert} has only {smallest} images: the farthest of them counts as neighbour number {k}")
    return knn


def _embed_held(sources: _Sources, options: EmbedOptions, compare: bool) -> tuple[MoFEOutput, Seen]:
    """Embed the validation images: the model's output, and the values that the other detectors score."""
    # the pre-trained backbone runs only for its patches, because extract has stored its embeddings of whole images
    texts = sources.texts if compare else None
    pretrained = create_pretrained(sources.config.backbone, sources.config.partition.classes) if texts else None
    patches = LocalScores(pretrained, texts) if pretrained and texts else None
    batches = embed_shards(
        [sources.network, *([pretrained] if pretrained else [])],
        sources.shards,
        options,
        label="thresholds",
        positions=sources.held,
        local=patches.latest if patches else None,
    )
    _, _, (output, *_), local_M = next(group_batches(batches))
    seen = seen_by(output, local_B=local_M)
    if compare:
        seen = seen._replace(pretrained_BD=torch.from_numpy(sources.stored_ND[sources.held]).float())
    return output, seen


def _fit_baselines(sources: _Sources, bank_ND: np.ndarray, seen: Seen, k: int) -> Baselines:
    """Fit the published baselines that the images are sufficient for; print the reason for each other one."""
    stored_ND, labels_N = sources.stored_ND, sources.shards.labels_N
    known = KnownImages(
        pretrained=Embedded(stored_ND[sources.known], stored_ND[sources.held]),
        tuned=Embedded(bank_ND, seen.tuned_BD.numpy()),
        labels_N=labels_N[sources.known],
        held_labels_M=labels_N[sources.held],
        held_experts_M=seen.experts_B,
        experts_C=sources.experts_C,
    )
    baselines, refused = Baselines.fit(known, _heads_of(sources.network), k, sources.texts)
    for name, reason in refused.items():
        print(f"not compared: {name}: {reason}")
    return baselines


def _heads_of(model: MoFE) -> list[Head]:
    """The head of each expert, on the CPU."""
    state = {name: tensor.detach().cpu() for name, tensor in model.heads.state_dict().items()}
    return [Head(state[f"{e}.weight"], state[f"{e}.bias"]) for e in range(model.num_experts)]


def _bank_table(sources: _Sources) -> pa.Table:
    """Table with the training image of each row of the indexes."""
    rows = {
        "id": sources.shards.paths.take(sources.known),
        "label": sources.shards.labels_N[sources.known],
        "expert": sources.bank_experts_N,
    }
    return pa.table(rows, schema=BANK_SCHEMA)


def _parameters(images: ImageSet, model: ModelConfig) -> dict[str, Any]:
    """Parameters that the model was made with, under the names that the pipeline gives them."""
    return {
        "train_data": images.source,
        "train_images_per_class": images.parameters["images_per_class"],
        "max_rejected": images.parameters["max_rejected"],
        "synsets": images.parameters["synsets"],
        "backbone": model.backbone.name,
        "backbone_args": model.backbone.args,
        "weights": model.backbone.weights,
        "mofe_depth": model.backbone.depth,
        "num_experts": model.partition.num_experts,
        "strategy": model.partition.strategy,
        "top_k": model.top_k,
        **model.training,
    }
