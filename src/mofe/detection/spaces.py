"""Feature spaces with the detectors that are fitted in them.

- ``pretrained``: embeddings by the pre-trained backbone, with a linear probe as head.
- ``tuned``: embeddings by the fine-tuned model, with a linear probe as head.
- ``expert``: for each expert, the fine-tuned embeddings of its classes, with its own head. The expert that an image is
  routed to scores it.
- ``text``: see :class:`mofe.detection.text_space.TextSpace`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol, Self

import numpy as np
import torch
from torch import Tensor

from mofe.detection.knn import ExpertKNN
from mofe.detection.seen import Seen
from mofe.detection.suite import Suite


class ScoreSpace(Protocol):
    """Interface of every feature space."""

    reads_pretrained: ClassVar[bool]
    """Whether its scores need the embeddings by the pre-trained backbone."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the scores, with the space before the dot."""
        ...

    def score(self, seen: Seen) -> dict[str, np.ndarray]:
        """Score B images: each of :attr:`names`, float64 (B,)."""
        ...


class Head(NamedTuple):
    """A linear head with Q outputs."""

    weight_QD: Tensor
    bias_Q: Tensor


@dataclass(frozen=True, eq=False)
class PretrainedSpace:
    """Detectors on the embeddings by the pre-trained backbone."""

    suite: Suite
    knn: ExpertKNN
    reads_pretrained: ClassVar[bool] = True

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the scores that :meth:`score` gives, in its order."""
        return ("pretrained.knn", *(f"pretrained.{name}" for name in self.suite.names))

    def score(self, seen: Seen) -> dict[str, np.ndarray]:
        """Score B images: each of :attr:`names`, float64 (B,).

        Embeddings are rounded to float16, because the detectors were fitted on the float16 values that extract stored.
        """
        z_BD = seen.pretrained_BD.half().float()
        found = {"pretrained.knn": _neighbour_scores(self.knn, z_BD)}
        return found | {f"pretrained.{name}": score.numpy() for name, score in self.suite.score(z_BD).items()}


@dataclass(frozen=True, eq=False)
class TunedSpace:
    """Detectors on the embeddings by the fine-tuned model."""

    suite: Suite
    knn: ExpertKNN
    reads_pretrained: ClassVar[bool] = False

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the scores that :meth:`score` gives, in its order."""
        return ("tuned.knn", *(f"tuned.{name}" for name in self.suite.names))

    def score(self, seen: Seen) -> dict[str, np.ndarray]:
        """Score B images: each of :attr:`names`, float64 (B,)."""
        z_BD = seen.tuned_BD
        found = {"tuned.knn": _neighbour_scores(self.knn, z_BD)}
        return found | {f"tuned.{name}": score.numpy() for name, score in self.suite.score(z_BD).items()}


@dataclass(frozen=True, eq=False)
class ExpertSpace:
    """Detectors on the embeddings by the fine-tuned model, separate for each expert."""

    suites: tuple[Suite, ...]
    detectors: tuple[str, ...]
    """Names of the detectors that all experts have."""
    reads_pretrained: ClassVar[bool] = False

    @classmethod
    def of(cls, suites: Sequence[Suite], detectors: Sequence[str]) -> Self:
        """Make the space from the experts' suites, with those of ``detectors`` that all suites have."""
        everywhere = (name for name in detectors if all(name in suite.names for suite in suites))
        return cls(tuple(suites), tuple(everywhere))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the scores that :meth:`score` gives, in its order."""
        return tuple(f"expert.{name}" for name in self.detectors)

    def score(self, seen: Seen) -> dict[str, np.ndarray]:
        """Score B images: each of :attr:`names`, float64 (B,)."""
        found = {name: np.empty(len(seen.tuned_BD)) for name in self.detectors}
        for expert, suite in enumerate(self.suites):
            mine = np.flatnonzero(seen.experts_B == expert)
            if mine.size:
                scores = suite.score(seen.tuned_BD[torch.from_numpy(mine)])
                for name, values_B in found.items():
                    values_B[mine] = scores[name].numpy()
        return {f"expert.{name}": values_B for name, values_B in found.items()}


def _neighbour_scores(knn: ExpertKNN, z_BD: Tensor) -> np.ndarray:
    """KNN scores in the index of all known images, float64 (B,)."""
    return knn.score(z_BD.numpy(), np.zeros(len(z_BD), int)).astype(float)
