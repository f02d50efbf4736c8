"""The bank of known images: one KNN index per expert, thresholds, and other detectors to compare with."""

from functools import partial
from typing import Any, NamedTuple, get_args

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
from mofe.detection.baselines import Baselines, Head, Space
from mofe.detection.knn import ExpertKNN, default_k
from mofe.detection.metrics import threshold_at_tpr
from mofe.detection.texts import Texts, read_texts
from mofe.errors import MofeError
from mofe.inference.detector import SCORES, scores_of, write_detector
from mofe.inference.embedding import create_pretrained, embed_shards, together
from mofe.inference.local_score import LocalScores
from mofe.models.checkpoint import load_model
from mofe.models.mofe import MoFE
from mofe.tracking import journal

MLFLOW_MODEL = "mofe.inference.mlflow_model"
"""The code that MLflow runs to serve a detector; imported there alone, because it takes MLflow seconds."""


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

    Each image is seen through the expert of its class. The validation images stay out of the bank: they are routed
    and scored like new ones; their scores calibrate p-values and give the thresholds that keep 95 % of known images.

    Args:
        images: training images written by prepare (path or URI).
        features: features of these images written by extract (path or URI).
        model: model written by finetune from these images.
        detector: where to write the detector (path or URI of a folder).
        texts: texts of the classes written by texts (path or URI); "" for none.
        knn_k: the score is the distance to the k-th nearest training image of the expert; 0 takes k in proportion to
            the training images, held-out ones included: 1000 for the 1 281 167 of ImageNet-1K, at least 5.
        bank: expert (neighbours among the images of the expert that an image is routed to) or global (among all).
        compare: also fit the detectors of the literature, on the untouched backbone and on the model.
        batch_size: images at once.
        num_workers: processes that decode images.
        precision: auto (bf16 where the hardware has it), bf16 or fp32.
    """
    with journal.stage_run("index", {"knn_k": knn_k, "bank": bank, "compare": compare}) as run:
        if bank not in get_args(Bank):
            raise MofeError(f"bank = {bank!r} is not one of {', '.join(get_args(Bank))}")
        if knn_k < 0:
            raise MofeError(f"knn_k = {knn_k} must be at least 1, or 0 to take it in proportion to the training images")
        shards, found, network, config, about, words = _sources(images, features, model, texts)
        experts_C = np.array(config.partition.expert_of_class)
        is_validation_N = validation_mask(shards.labels_N, config.validation_fraction, config.seed)
        known, held = np.flatnonzero(~is_validation_N), np.flatnonzero(is_validation_N)
        embed = partial(
            embed_shards,
            shards=shards,
            preprocessing=config.backbone.preprocessing,
            batch_size=batch_size,
            num_workers=num_workers,
            precision=precision,
        )

        bank_ND = np.empty((len(known), network.dim), np.float32)
        start = 0
        for positions_B, _, (output,), _ in embed([network], label="index", positions=known, expert_of_class=experts_C):
            bank_ND[start : start + len(positions_B)] = output.embedding_BD
            start += len(positions_B)
        experts_N = experts_C[shards.labels_N[known]]
        k = knn_k or default_k(len(shards))
        knn = ExpertKNN.build(bank_ND, experts_N if bank == "expert" else None, k)
        sizes = np.bincount(experts_N, minlength=network.num_experts)
        if bank == "expert" and sizes.min() < k:
            print(
                f"expert {sizes.argmin()} has only {sizes.min()} images: its farthest stands for its {k}-th neighbour"
            )

        # the untouched backbone is needed for its patches alone: what it makes of images, extract has stored
        words = words if compare else None
        before = [create_pretrained(config.backbone, config.partition.classes)] if words else []
        patches = LocalScores(before[0], words) if words else None
        batches = embed(
            [network, *before], label="thresholds", positions=held, local=patches.latest if patches else None
        )
        _, _, (seen, *_), local_M = next(together(batches))
        calibration = scores_of(seen, knn).values
        comparison = None
        if compare:
            before_ND, held_experts_M = found.column("embedding"), seen.expert_B.numpy()
            comparison, refused = Baselines.fit(
                pretrained=Space(before_ND[known], before_ND[held]),
                tuned=Space(bank_ND, seen.embedding_BD.numpy()),
                labels_N=shards.labels_N[known],
                held_labels_M=shards.labels_N[held],
                held_experts_M=held_experts_M,
                experts_C=experts_C,
                heads=_heads_of(network),
                k=k,
                texts=words,
            )
            for name, reason in refused.items():
                print(f"left out of the comparison: {name}: {reason}")
            held_before_MD = torch.from_numpy(before_ND[held]).float()
            calibration |= comparison.score_pretrained(held_before_MD)
            calibration |= comparison.score_tuned(seen.embedding_BD, held_experts_M)
            if comparison.text:
                calibration |= comparison.text.score(held_before_MD, local_M, seen.logits[:, :-1])
        thresholds = {name: threshold_at_tpr(values) for name, values in calibration.items()}

        rows = {"id": shards.paths.take(known), "label": shards.labels_N[known], "expert": experts_N}
        info = DetectorInfo(
            made_from={
                "model": config.identity,
                **config.made_from,
                **({"texts": about.identity} if about else {}),
            },
            knn_k=k,
            bank=bank,
            bank_sizes=tuple(sizes.tolist()),
            thresholds=thresholds,
            num_validation=len(held),
            baselines=comparison.names if comparison else (),
            parameters={
                **_parameters(shards.info, config),
                **(about.parameters if about else {}),
                **{"knn_k": knn_k, "bank": bank, "compare": compare, "precision": precision},
            },
        )
        write_detector(
            detector,
            info,
            model=(network, config),
            knn=knn,
            comparison=comparison,
            bank=pa.table(rows, schema=BANK_SCHEMA),
            calibration=pa.table(calibration, schema=calibration_schema(calibration)),
        )
        run.metrics({"knn_k": k, "bank": len(known), **{f"threshold.{name}": thresholds[name] for name in SCORES}})
        run.detector(detector, MLFLOW_MODEL)


def _heads_of(model: MoFE) -> list[Head]:
    """The head of each expert, on the CPU."""
    state = {name: tensor.detach().cpu() for name, tensor in model.heads.state_dict().items()}
    return [Head(state[f"{e}.weight"], state[f"{e}.bias"]) for e in range(model.num_experts)]


class _Sources(NamedTuple):
    """What a detector is made of."""

    shards: ImageShards
    features: Features
    network: MoFE
    config: ModelConfig
    about_texts: TextInfo | None
    texts: Texts | None


def _sources(images: str, features: str, model: str, texts: str) -> _Sources:
    """All of them read, and checked to be of one run.

    Raises:
        MofeError: one is missing, damaged, or made from something else.
    """
    shards = ImageShards(images)
    network, config = load_model(model)
    if not config.check_source("images", shards.info) or config.partition.classes != shards.info.classes:
        raise MofeError(f"the model {model} was not trained on the images {images}")
    found = Features(features)
    if not config.check_source("features", found.info):
        raise MofeError(f"the model {model} was not trained with the features {features}")
    about, words = read_texts(texts) if texts else (None, None)
    if about and (about.classes, about.backbone) != (shards.info.classes, config.backbone):
        raise MofeError(f"the texts {texts} are not of the classes of {images} and of the model's backbone")
    if about and about.made_from.get("features") != config.made_from["features"]:
        raise MofeError(f"the texts {texts} and the model {model} were not made from the same features")
    return _Sources(shards, found, network, config, about, words)


def _parameters(images: ImageSet, model: ModelConfig) -> dict[str, Any]:
    """What the model was made with, by the names of the pipeline."""
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
