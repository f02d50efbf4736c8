"""Published baselines on this run's own features, to compare with the detector that the run makes.

There are three feature spaces (see :mod:`mofe.detection.spaces`). Where the run has a text model, there is a fourth,
``text``, which the pre-trained backbone's embeddings share with those of class names. The name of a score consists of
its space and its detector: ``pretrained.vim``. KNN inside the expert is the run's own ``knn`` and is not repeated.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mofe.detection.knn import ExpertKNN
from mofe.detection.linear_probe import linear_probe
from mofe.detection.seen import Seen
from mofe.detection.spaces import ExpertSpace, Head, PretrainedSpace, ScoreSpace, TunedSpace
from mofe.detection.suite import Suite
from mofe.detection.text_space import TextSpace
from mofe.detection.texts import Texts
from mofe.errors import MofeError

TENSORS = "detectors.safetensors"

Reasons = dict[str, str]
"""The reason why a score could not be fitted, by the name of the score."""


class Embedded(NamedTuple):
    """Embeddings (N, D) of the training images and (M, D) of the held-out images."""

    known_ND: np.ndarray
    held_MD: np.ndarray


class KnownImages(NamedTuple):
    """The images of the known classes that detectors are fitted on."""

    pretrained: Embedded
    """Embeddings by the pre-trained backbone."""
    tuned: Embedded
    """Embeddings by the fine-tuned model; those of training images by the expert of their class."""
    labels_N: np.ndarray
    held_labels_M: np.ndarray
    held_experts_M: np.ndarray
    """Experts that the held-out images were routed to."""
    experts_C: np.ndarray
    """The expert of each class."""


@dataclass(frozen=True, eq=False)
class Baselines:
    """The baselines, fitted in all spaces."""

    pretrained: PretrainedSpace
    tuned: TunedSpace
    expert: ExpertSpace
    text: TextSpace | None = None
    """None if the run has no text model."""

    @classmethod
    def fit(
        cls, images: KnownImages, heads: Sequence[Head], k: int, texts: Texts | None = None
    ) -> tuple[Self, Reasons]:
        """Fit every score that the data allows.

        Args:
            images: training and held-out images.
            heads: head of each expert: its own classes in their order and, where there are several experts, "others".
            k: rank of the neighbour whose distance is the KNN score.
            texts: texts of the classes; None if the run has no text model.

        Returns:
            The baselines, and the reason for each score that could not be fitted.
        """
        labels_N, held_labels_M = images.labels_N, images.held_labels_M
        pretrained, refused = _fit_suite("pretrained", images.pretrained, labels_N, held_labels_M)
        tuned, reasons = _fit_suite("tuned", images.tuned, labels_N, held_labels_M)
        refused |= reasons
        experts = []
        for expert, head in enumerate(heads):
            suite, reasons = _fit_expert(expert, head, images)
            experts.append(suite)
            refused |= reasons
        text = None
        if texts is not None:
            text, reasons = TextSpace.fit(texts, *_split(images.pretrained, labels_N, held_labels_M))
            refused |= reasons
        spaces = (
            PretrainedSpace(pretrained, ExpertKNN.build(images.pretrained.known_ND, None, k)),
            TunedSpace(tuned, ExpertKNN.build(images.tuned.known_ND, None, k)),
            ExpertSpace.of(experts, tuned.names),
        )
        return cls(*spaces, text), refused

    @property
    def spaces(self) -> tuple[ScoreSpace, ...]:
        """All spaces, the text space last."""
        return (self.pretrained, self.tuned, self.expert, *([self.text] if self.text else []))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all scores, space by space."""
        return tuple(name for space in self.spaces for name in space.names)

    def spaces_of(self, names: Collection[str]) -> tuple[ScoreSpace, ...]:
        """Spaces that the scores ``names`` belong to."""
        return tuple(space for space in self.spaces if not set(names).isdisjoint(space.names))

    def score(self, seen: Seen) -> dict[str, np.ndarray]:
        """Score B images: each of :attr:`names`, float64 (B,)."""
        return {name: values_B for space in self.spaces for name, values_B in space.score(seen).items()}

    def save(self, folder: Path) -> None:
        """Write the baselines into a local folder."""
        parts = {"pretrained": self.pretrained.suite.tensors(), "tuned": self.tuned.suite.tensors()}
        parts |= {f"expert-{e:03d}": suite.tensors() for e, suite in enumerate(self.expert.suites)}
        if self.text is not None:
            parts["text"] = self.text.tensors()
        tensors = {f"{part}/{key}": value for part, state in parts.items() for key, value in state.items()}
        folder.mkdir(parents=True, exist_ok=True)
        save_file({key: value.contiguous().clone() for key, value in tensors.items()}, folder / TENSORS)
        self.pretrained.knn.save(folder / "pretrained")
        self.tuned.knn.save(folder / "tuned")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read the baselines that :meth:`save` wrote; the indexes are memory-mapped.

        Raises:
            MofeError: a part is missing or damaged.
        """
        parts = _read_parts(folder / TENSORS)
        pretrained, tuned = (Suite.of_tensors(parts[name]) for name in ("pretrained", "tuned"))
        experts = [Suite.of_tensors(parts[name]) for name in sorted(parts) if name.startswith("expert-")]
        return cls(
            PretrainedSpace(pretrained, ExpertKNN.load(folder / "pretrained")),
            TunedSpace(tuned, ExpertKNN.load(folder / "tuned")),
            ExpertSpace.of(experts, tuned.names),
            TextSpace.of_tensors(parts["text"]) if "text" in parts else None,
        )


def _split(
    space: Embedded, labels_N: np.ndarray, held_labels_M: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Training embeddings, their labels, held-out embeddings, their labels."""
    return space.known_ND, labels_N, space.held_MD, held_labels_M


def _fit_suite(name: str, space: Embedded, labels_N: np.ndarray, held_labels_M: np.ndarray) -> tuple[Suite, Reasons]:
    """Fit the detectors of a space, with a linear probe as its head."""
    known, labels, held, held_labels = map(torch.from_numpy, _split(space, labels_N, held_labels_M))
    probe = linear_probe(space.known_ND, labels_N)
    suite, reasons = Suite.fit(known, labels.long(), held, held_labels.long(), *probe)
    return suite, {f"{name}.{detector}": reason for detector, reason in reasons.items()}


def _fit_expert(expert: int, head: Head, images: KnownImages) -> tuple[Suite, Reasons]:
    """Fit the detectors of one expert on the images of its classes, with its own head without "others"."""
    experts_C = images.experts_C
    labels, held_labels = (torch.from_numpy(labels).long() for labels in (images.labels_N, images.held_labels_M))
    slot_C = torch.from_numpy(np.cumsum(experts_C == expert) - 1)
    mine_N = torch.from_numpy(experts_C[images.labels_N] == expert)
    mine_M = torch.from_numpy((images.held_experts_M == expert) & (experts_C[images.held_labels_M] == expert))
    known, held = torch.from_numpy(images.tuned.known_ND)[mine_N], torch.from_numpy(images.tuned.held_MD)[mine_M]
    size = int((experts_C == expert).sum())
    own = head.weight_QD[:size], head.bias_Q[:size]
    suite, reasons = Suite.fit(known, slot_C[labels[mine_N]], held, slot_C[held_labels[mine_M]], *own)
    return suite, {f"expert.{detector}": f"expert {expert}: {why}" for detector, why in reasons.items()}


def _read_parts(file: Path) -> dict[str, dict[str, Tensor]]:
    """Read the stored tensors: part → name in the part → tensor.

    Raises:
        MofeError: the file is missing or damaged.
    """
    try:
        tensors = load_file(file)
    except Exception as error:  # safetensors raises its own classes of errors
        raise MofeError(f"{file} cannot be read: {error}") from error
    parts: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        part, name = key.split("/")
        parts.setdefault(part, {})[name] = value
    return parts
