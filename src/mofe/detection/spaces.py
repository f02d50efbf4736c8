"""Feature spaces with the detectors fitted in them; each knows the names of its scores, and what it reads.

``pretrained`` (the pre-trained backbone, a linear probe on it), ``tuned`` (the fine-tuned model's embeddings, a linear
probe on them) and ``expert`` (the fine-tuned embeddings of each expert's classes alone, under its own head: an image is
scored by the expert that it is routed to). The fourth, ``text``, is :class:`mofe.detection.text_space.TextSpace`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol, Self

import numpy as np
import torch
from torch import Tensor

from mofe.detection.knn import ExpertKNN
from mofe.detection.mos import mos
from mofe.detection.seen import Seen
from mofe.detection.suite import Suite


class ScoreSpace(Protocol):
    """What every feature space can say of its scores."""

    reads_pretrained: ClassVar[bool]
    """Whether it needs what the pre-trained backbone makes of an image."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of its scores, with the space before the dot."""
        ...

    def score(self, seen: Seen) -> dict[str, np.ndarray]:
        """Every score of B images, float64 (B,)."""
        ...


class Head(NamedTuple):
    """A linear head."""

    weight_QD: Tensor
    bias_Q: Tensor


@dataclass(frozen=True, eq=False)
class PretrainedSpace:
    """The embeddings of the pre-trained backbone."""

    suite: Suite
    knn: ExpertKNN
    reads_pretrained: ClassVar[bool] = True

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the scores that :meth:`score` gives, in its order."""
        return ("pretrained.knn", *(f"pretrained.{name}" for name in self.suite.names))

    def score(self, seen: Seen) -> dict[str, np.ndarray]:
        """The scores :attr:`names`, float64 (B,).

        Embeddings are rounded to float16, as those are that the detectors were fitted on: extract stores them so.
        """
        z_BD = seen.pretrained_BD.half().float()
        found = {"pretrained.knn": _neighbour_scores(self.knn, z_BD)}
        return found | {f"pretrained.{name}": score.numpy() for name, score in self.suite.score(z_BD).items()}


@dataclass(frozen=True, eq=False)
class TunedSpace:
    """The embeddings of the fine-tuned model."""

    suite: Suite
    knn: ExpertKNN
    heads: tuple[Head, ...]
    """Of every expert, "others" last; none where there is one expert."""
    reads_pretrained: ClassVar[bool] = False

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the scores that :meth:`score` gives, in its order."""
        return ("tuned.knn", *(f"tuned.{name}" for name in self.suite.names), *(["tuned.mos"] if self.heads else []))

    def score(self, seen: Seen) -> dict[str, np.ndarray]:
        """The scores :attr:`names`, float64 (B,)."""
        z_BD = seen.tuned_BD
        found = {"tuned.knn": _neighbour_scores(self.knn, z_BD)}
        found |= {f"tuned.{name}": score.numpy() for name, score in self.suite.score(z_BD).items()}
        if self.heads:
            found["tuned.mos"] = mos([z_BD @ head.weight_QD.T + head.bias_Q for head in self.heads]).numpy()
        return found


@dataclass(frozen=True, eq=False)
class ExpertSpace:
    """The embeddings of the fine-tuned model, expert by expert."""

    suites: tuple[Suite, ...]
    detectors: tuple[str, ...]
    """Those that every expert has."""
    reads_pretrained: ClassVar[bool] = False

    @classmethod
    def of(cls, suites: Sequence[Suite], detectors: Sequence[str]) -> Self:
        """The space of the experts' suites, with those of ``detectors`` that all of them allow."""
        everywhere = (name for name in detectors if all(name in suite.names for suite in suites))
        return cls(tuple(suites), tuple(everywhere))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the scores that :meth:`score` gives, in its order."""
        return tuple(f"expert.{name}" for name in self.detectors)

    def score(self, seen: Seen) -> dict[str, np.ndarray]:
        """The scores :attr:`names`, float64 (B,)."""
        found = {name: np.empty(len(seen.tuned_BD)) for name in self.detectors}
        for expert, suite in enumerate(self.suites):
            mine = np.flatnonzero(seen.experts_B == expert)
            if mine.size:
                scores = suite.score(seen.tuned_BD[torch.from_numpy(mine)])
                for name, values_B in found.items():
                    values_B[mine] = scores[name].numpy()
        return {f"expert.{name}": values_B for name, values_B in found.items()}


def _neighbour_scores(knn: ExpertKNN, z_BD: Tensor) -> np.ndarray:
    """Scores by the one index of all known images, float64 (B,)."""
    return knn.score(z_BD.numpy(), np.zeros(len(z_BD), int)).astype(float)
