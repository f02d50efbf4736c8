"""The trained detector: a model, one index of known images per expert, and thresholds.

In its folder: ``model/``, ``indexes/``, ``bank.parquet`` (which training image each row of the indexes is) and, written
last, ``detector.json``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from PIL import Image
from upath import UPath

from mofe import storage
from mofe.artifacts import DetectorInfo, ModelConfig
from mofe.data.images import to_rgb
from mofe.data.loader import evaluation_transform
from mofe.detection.knn import ExpertKNN
from mofe.detection.scores import energy, max_logit, msp
from mofe.models.checkpoint import load_model
from mofe.models.device import autocast, device
from mofe.models.mofe import MoFE, MoFEOutput

SCORES = ("knn", "msp", "max_logit", "energy")
"""What a detector computes of every image; ``knn`` is the method's own."""


@dataclass(frozen=True)
class Scores:
    """What the detector says of B images; higher values are more in-distribution."""

    predicted_B: np.ndarray
    """Index into ``Detector.classes``."""
    expert_B: np.ndarray
    values: dict[str, np.ndarray]
    """Per name of :data:`SCORES`, float32 (B,)."""


def scores_of(output: MoFEOutput, knn: ExpertKNN) -> Scores:
    """Class, expert and every score of a batch that the model has seen; float32 tensors on the CPU."""
    logits_BC, others_B = output.logits[:, :-1], output.logits[:, -1]
    experts_B = output.expert_B.numpy()
    values = {
        "knn": knn.score(output.embedding_BD.numpy(), experts_B),
        "msp": msp(logits_BC, others_B).numpy(),
        "max_logit": max_logit(logits_BC).numpy(),
        "energy": energy(logits_BC).numpy(),
    }
    return Scores(logits_BC.argmax(dim=1).numpy(), experts_B, values)


@dataclass(frozen=True)
class Detector:
    """Names the class of an image, and scores how much the image is like what was taught; see :func:`load_detector`."""

    model: MoFE
    config: ModelConfig
    knn: ExpertKNN
    info: DetectorInfo

    @classmethod
    def read(cls, folder: UPath) -> Self:
        """Read a detector's folder.

        Raises:
            MofeError: a part is missing, damaged, or does not belong to the others.
        """
        info = DetectorInfo.read(folder)
        model, config = load_model(folder / "model")
        with storage.local_copy(folder / "indexes") as indexes:
            knn = ExpertKNN.load(indexes)
        return cls(model, config, knn, info)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the C known classes."""
        return self.config.partition.classes

    @property
    def experts(self) -> tuple[int, ...]:
        """The expert of each class."""
        return self.config.partition.expert_of_class

    @property
    def thresholds(self) -> dict[str, float]:
        """Per score, the largest value that keeps at least 95 % of the validation images."""
        return self.info.thresholds

    @torch.inference_mode()
    def score(self, images: Sequence[Image.Image]) -> Scores:
        """Class, expert and scores of images of any size and mode; one batch."""
        place = device()
        transform = evaluation_transform(self.config.backbone.preprocessing)
        batch = torch.stack([transform(to_rgb(image)) for image in images]).to(place)
        with autocast("auto"):
            output = self.model.to(place)(batch)
        return scores_of(MoFEOutput(*(t.cpu().float() if t.is_floating_point() else t.cpu() for t in output)), self.knn)


def load_detector(uri: str) -> Detector:
    """The detector that the index stage wrote at a local path or fsspec URI."""
    return Detector.read(storage.resolve(uri))
