"""The trained detector: a model, one index of known images per expert, and the scores that calibrate its decisions.

Its folder holds ``model/``, ``indexes/``, ``bank.parquet`` (the training image of each row of the indexes),
``calibration.parquet`` (scores of the validation images), ``baselines/`` if index ran with ``compare=true``, and
``detector.json``, which is written last.
"""

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from upath import UPath

from mofe.arguments import instance, text, texts, whole
from mofe.artifacts.detector import DetectorInfo
from mofe.artifacts.model import ModelConfig
from mofe.data.images import decode, measured, to_rgb
from mofe.data.loader import evaluation_transform, normalised
from mofe.detection.baselines import Baselines
from mofe.detection.conformal import conformal_p_values
from mofe.detection.knn import ExpertKNN
from mofe.detection.scores import energy, max_logit, msp
from mofe.detection.seen import Seen
from mofe.detection.spaces import ScoreSpace
from mofe.device import autocast, device
from mofe.errors import MofeError, in_one_line, shown
from mofe.inference.embedding import create_pretrained, on_cpu
from mofe.inference.local_score import LocalScores
from mofe.models.checkpoint import load_model, save_model
from mofe.models.mofe import MoFE, MoFEOutput
from mofe.storage import locations, writing

SCORES = ("knn", "msp", "max_logit", "energy")
"""Names of the scores that a detector computes for every image; ``knn`` is the method's own."""

MODEL, INDEXES, BASELINES = "model", "indexes", "baselines"
CALIBRATION, BANK = "calibration.parquet", "bank.parquet"


@dataclass(frozen=True)
class Scores:
    """The detector's output for B images; higher scores are more in-distribution."""

    predicted_B: np.ndarray
    """Index into ``Detector.classes``."""
    expert_B: np.ndarray
    values: dict[str, np.ndarray]
    """Scores (B,) by name: :data:`SCORES` and the requested baselines; ``msp`` is the probability of the class."""
    distance_Bn: np.ndarray
    """Euclidean distances to the expert's nearest known images, nearest first; inf if its bank has fewer than n."""
    nearest_Bn: np.ndarray
    """Rows of ``Detector.bank`` of those images; −1 if the expert's bank has fewer than n."""


def scores_of(output: MoFEOutput, knn: ExpertKNN, neighbours: int = 0) -> Scores:
    """Class, expert and all scores of a batch, from the model's output (float32 tensors on the CPU)."""
    logits_BC, others_B = output.logits[:, :-1], output.logits[:, -1]
    embeddings_BD, experts_B = output.embedding_BD.numpy(), output.expert_B.numpy()
    knn_B, distance_Bn, nearest_Bn = knn.search(embeddings_BD, experts_B, neighbours)
    values = {
        "knn": knn_B,
        "msp": msp(logits_BC, others_B).numpy(),
        "max_logit": max_logit(logits_BC).numpy(),
        "energy": energy(logits_BC).numpy(),
    }
    predicted_B = logits_BC.argmax(dim=1).numpy()
    return Scores(predicted_B, experts_B, values, distance_Bn, nearest_Bn)


def seen_by(output: MoFEOutput, pretrained: MoFEOutput | None = None, local_B: torch.Tensor | None = None) -> Seen:
    """The input of the baselines for one batch.

    Args:
        output: output of the detector's model, on the CPU.
        pretrained: output of the pre-trained backbone, if a feature space reads it.
        local_B: GL-MCM's local score, if there are texts.
    """
    seen = Seen(output.embedding_BD, output.logits[:, :-1], output.expert_B.numpy())
    if pretrained is not None:
        seen = seen._replace(pretrained_BD=pretrained.embedding_BD)
    return seen if local_B is None else seen._replace(local_B=local_B)


@dataclass(frozen=True)
class Detector:
    """Names the class of an image and scores how similar it is to the known images; see :func:`load_detector`."""

    folder: UPath
    model: MoFE
    config: ModelConfig
    knn: ExpertKNN
    info: DetectorInfo

    def __repr__(self) -> str:
        return f"Detector({str(self.folder)!r}: {len(self.classes)} classes, {self.model.num_experts} experts)"

    @classmethod
    def read(cls, folder: UPath) -> Self:
        """Read a detector's folder.

        Raises:
            MofeError: a part is missing, damaged, or does not belong to the others.
        """
        info = DetectorInfo.read(folder)
        info.check(folder, f"{MODEL}/config.json")  # config.json holds the checksum of the weights
        model, config = load_model(folder / MODEL)
        with locations.local_copy(folder / INDEXES) as indexes:
            info.check(folder, f"{INDEXES}/*", copy=indexes.parent)
            knn = ExpertKNN.load(indexes)
        return cls(folder, model.to(device()), config, knn, info)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the C known classes."""
        return self.config.partition.classes

    @property
    def experts(self) -> tuple[int, ...]:
        """The index of the expert of each class."""
        return self.config.partition.expert_of_class

    @property
    def thresholds(self) -> dict[str, float]:
        """By score, the largest threshold that at least 95 % of the validation images reach."""
        return self.info.thresholds

    @cached_property
    def bank(self) -> pa.Table:
        """The known images among which neighbours are searched: columns ``id``, ``label``, ``expert``."""
        self.info.check(self.folder, BANK)
        return locations.read_parquet(self.folder / BANK)

    @cached_property
    def calibration(self) -> pa.Table:
        """The scores of the validation images, one column per score."""
        self.info.check(self.folder, CALIBRATION)
        return locations.read_parquet(self.folder / CALIBRATION)

    @cached_property
    def baselines(self) -> Baselines:
        """The baselines that were fitted for comparison.

        Raises:
            MofeError: index ran without ``compare``.
        """
        if not self.info.baselines:
            raise MofeError(f"{self.folder} holds no baselines: run index with compare=true")
        with locations.local_copy(self.folder / BASELINES) as folder:
            self.info.check(self.folder, f"{BASELINES}/*", copy=folder.parent)
            return Baselines.load(folder)

    @cached_property
    def pretrained(self) -> MoFE:
        """The pre-trained backbone, loaded from its original source, for the baselines that read it."""
        return create_pretrained(self.config.backbone, self.classes).to(device()).eval()

    @cached_property
    def local(self) -> LocalScores | None:
        """GL-MCM's local scores of the images that go through :attr:`pretrained`; None without a text model.

        Read this property before :attr:`pretrained` runs, because it registers a hook there.
        """
        return LocalScores(self.pretrained, self.baselines.text.texts) if self.baselines.text else None

    def p_values(self, scores: Scores, score: str = "knn") -> np.ndarray:
        """Conformal p-values (B,): share of known images at least as unusual; see :mod:`mofe.detection.conformal`.

        Raises:
            MofeError: ``scores`` does not hold that score, or is not what :meth:`score` returned.
        """
        if text("score", score) not in instance("scores", scores, Scores).values:
            raise MofeError(f"these scores do not hold {score!r}; request it: score(images, scores=[{score!r}])")
        return conformal_p_values(scores.values[score], self.calibration[score].to_numpy())

    @torch.inference_mode()
    def score(self, images: Any, *, scores: Iterable[str] = (), neighbours: int = 0, batch_size: int = 64) -> Scores:
        """Class, expert and scores of images of any size and mode.

        Args:
            images: one image or an iterable of them (a list, an array N × H × W (× 3), a generator); an image is a PIL
                image, an array H × W (× 1, 3 or 4) of uint8, the bytes of an image file, a file opened to read bytes,
                or a local path or fsspec URI.
            scores: names of baselines from ``info.baselines``, in addition to :data:`SCORES`.
            neighbours: number of nearest known images to name.
            batch_size: number of images per batch.

        Raises:
            MofeError: a score does not exist, there are no images, or an image cannot be read; the message names it.
        """
        pending = enumerate([images] if _is_one(images) else _several(images))
        batch_size, neighbours = whole("batch_size", batch_size, 1), whole("neighbours", neighbours)
        names = self._baseline_names(texts("scores", [scores] if isinstance(scores, str) else scores))
        spaces = self.baselines.spaces_of(names) if names else ()
        preprocessing = self.config.backbone.preprocessing
        transform = evaluation_transform(preprocessing)
        parts = []
        while batch := [transform(_as_rgb(image, i)) for i, image in islice(pending, batch_size)]:
            stacked = normalised(torch.stack(batch).to(device()), preprocessing)
            output = self._run(self.model, stacked)
            part = scores_of(output, self.knn, neighbours)
            seen = self._look(stacked, output, spaces)
            found = {name: values_B for space in spaces for name, values_B in space.score(seen).items()}
            part.values.update({name: found[name] for name in names})
            parts.append(part)
        if not parts:
            raise MofeError("there are no images to score")
        return _concat(parts)

    def _baseline_names(self, scores: Iterable[str]) -> list[str]:
        """The names in ``scores`` that are baselines.

        Raises:
            MofeError: the detector has no score of that name.
        """
        names = [name for name in scores if name not in SCORES]
        for name in names:
            if name not in self.info.baselines:
                raise MofeError(f"the detector has no score {name!r}; it has {', '.join(self.thresholds)}")
        return names

    def _look(self, images: torch.Tensor, output: MoFEOutput, spaces: Iterable[ScoreSpace]) -> Seen:
        """The input of the baselines; runs the pre-trained backbone if one of the spaces reads it."""
        if not any(space.reads_pretrained for space in spaces):
            return seen_by(output)
        local = self.local  # registers its hook before the pre-trained backbone runs
        pretrained = self._run(self.pretrained, images)
        return seen_by(output, pretrained, local.latest().cpu() if local else None)

    def _run(self, model: MoFE, images: torch.Tensor) -> MoFEOutput:
        """Run a model in the precision in which the known images were embedded, because distances are compared."""
        with autocast(self.info.precision):
            return on_cpu(model(images))


def _is_one(images: Any) -> bool:
    """Whether this is one image; an array H × W × C has 1, 3 or 4 channels, else it is N images H × W."""
    if isinstance(images, np.ndarray):
        return images.ndim < 3 or (images.ndim == 3 and images.shape[2] in (1, 3, 4))
    kinds = (str, bytes, bytearray, memoryview, os.PathLike, Image.Image, UPath)
    return isinstance(images, kinds) or hasattr(images, "read")


def _several(images: Any) -> Iterator[Any]:
    if isinstance(images, Mapping):
        raise MofeError("images must be one image or an iterable of them, not a mapping: give its values")
    try:
        return iter(images)
    except TypeError as error:
        raise MofeError(f"images must be one image or an iterable of them, not {shown(images)}") from error


def _as_rgb(image: Any, position: int) -> Image.Image:
    """Convert an image in any form that :meth:`Detector.score` takes to RGB."""
    try:
        if hasattr(image, "read") and not isinstance(image, os.PathLike | UPath):
            image = image.read()
        if isinstance(image, Image.Image):
            return to_rgb(measured(image))
        if isinstance(image, np.ndarray):
            if image.dtype != np.uint8:
                raise ValueError(f"the range of an array of {image.dtype} is unknown: give uint8")
            if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (1, 3, 4)):
                raise ValueError(f"an array of shape {image.shape} is not H × W, or H × W × 1, 3 or 4")
            if not image.size:
                raise ValueError("it has no pixels")
            return to_rgb(measured(Image.fromarray(image[..., 0] if image.shape[2:] == (1,) else image)))
        if isinstance(image, bytes | bytearray | memoryview):
            return decode(bytes(image))
        if isinstance(image, str | os.PathLike | UPath):
            return decode(locations.read_bytes(locations.resolve(image), "image"))
        raise ValueError(f"a {type(image).__name__} is not a PIL image, array, bytes, file, path or URI")
    except MofeError:
        raise
    except Exception as error:  # PIL decodes an opened image only now, and a decoder can raise anything
        name = image if isinstance(image, str | os.PathLike | UPath) else f"image {position}"
        raise MofeError(f"{name} cannot be scored: {in_one_line(error)}") from error


def _concat(parts: list[Scores]) -> Scores:
    return Scores(
        np.concatenate([part.predicted_B for part in parts]),
        np.concatenate([part.expert_B for part in parts]),
        {name: np.concatenate([part.values[name] for part in parts]) for name in parts[0].values},
        np.concatenate([part.distance_Bn for part in parts]),
        np.concatenate([part.nearest_Bn for part in parts]),
    )


def load_detector(uri: str) -> Detector:
    """Load the detector that the index stage wrote at a local path or fsspec URI.

    Raises:
        MofeError: there is no detector, or a part of it is missing or damaged.
    """
    folder = locations.resolve(uri)
    try:
        return Detector.read(folder)
    except MofeError as error:
        if locations.kind(inside := folder / "detector" / DetectorInfo.file_name):
            raise MofeError(f"{uri} is the folder of a run: use its detector, {inside.parent}") from error
        raise


def write_detector(
    uri: str,
    info: DetectorInfo,
    *,
    model: tuple[MoFE, ModelConfig],
    knn: ExpertKNN,
    baselines: Baselines | None,
    bank: pa.Table,
    calibration: pa.Table,
) -> None:
    """Write a detector's folder, which :func:`load_detector` reads."""
    with writing.staged(uri) as folder:
        save_model(folder / MODEL, *model)
        for name, part in ((INDEXES, knn), (BASELINES, baselines)):
            if part is not None:
                with tempfile.TemporaryDirectory() as local:
                    part.save(Path(local))
                    writing.copy_folder(Path(local), folder / name)
        for name, table in ((BANK, bank), (CALIBRATION, calibration)):
            with writing.file(folder / name) as file:
                pq.write_table(table, file)
        info.write(folder)
