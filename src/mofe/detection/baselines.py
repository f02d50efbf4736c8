"""Published baselines on this run's own features, to compare with the detector that the run makes.

There are three feature spaces, and a fourth if the run has a text model:

- ``pretrained``: the pre-trained backbone's embeddings, with a linear probe.
- ``tuned``: the fine-tuned model's embeddings, with a linear probe.
- ``expert``: the fine-tuned embeddings of each expert's classes alone, with the expert's own head. An image is scored
  by the expert that it is routed to.
- ``text``: the pre-trained backbone's embeddings in the space of the class names' embeddings.

The name of a score is that of its space and its detector: ``pretrained.vim``. KNN inside the expert is the run's own
``knn`` and is not repeated. MOS (``tuned.mos``) uses "others" of every expert's head, so it needs two experts or more.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mofe.detection.knn import ExpertKNN
from mofe.detection.linear_probe import linear_probe
from mofe.detection.mos import mos
from mofe.detection.suite import Suite
from mofe.detection.text_space import TextSpace
from mofe.detection.texts import Texts
from mofe.errors import MofeError

TENSORS = "detectors.safetensors"


class Head(NamedTuple):
    """A linear head."""

    weight_QD: Tensor
    bias_Q: Tensor


class Space(NamedTuple):
    """Embeddings of the N training images and the M held-out images."""

    known_ND: np.ndarray
    held_MD: np.ndarray


@dataclass(frozen=True, eq=False)
class Baselines:
    """The baselines, fitted in every space."""

    pretrained: Suite
    tuned: Suite
    experts: tuple[Suite, ...]
    heads: tuple[Head, ...]
    """Head of each expert, "others" last; empty if there is one expert."""
    pretrained_knn: ExpertKNN
    tuned_knn: ExpertKNN
    text: TextSpace | None = None
    """None if the run has no text model."""

    @classmethod
    def fit(
        cls,
        pretrained: Space,
        tuned: Space,
        labels_N: np.ndarray,
        held_labels_M: np.ndarray,
        held_experts_M: np.ndarray,
        experts_C: np.ndarray,
        heads: Sequence[Head],
        k: int,
        texts: Texts | None = None,
    ) -> tuple[Self, dict[str, str]]:
        """Fit every detector that the data allows.

        Args:
            pretrained: embeddings under the pre-trained backbone.
            tuned: embeddings under the fine-tuned model; of training images through the expert of their class.
            labels_N: classes of the training images.
            held_labels_M: classes of the held-out images.
            held_experts_M: experts that the held-out images were routed to.
            experts_C: expert of each class.
            heads: head of each expert: its own classes in their order and, if there are several experts, "others".
            k: rank of the neighbour whose distance is the KNN score.
            texts: texts of the classes, if there are any.

        Returns:
            The fitted detectors, and for each detector that could not be fitted, by name, the reason.
        """
        labels, held_labels = torch.from_numpy(labels_N).long(), torch.from_numpy(held_labels_M).long()
        refused: dict[str, str] = {}
        suites = {}
        for name, space in (("pretrained", pretrained), ("tuned", tuned)):
            known, held = torch.from_numpy(space.known_ND), torch.from_numpy(space.held_MD)
            probe = linear_probe(space.known_ND, labels_N)
            suites[name], reasons = Suite.fit(known, labels, held, held_labels, *probe)
            refused |= {f"{name}.{detector}": reason for detector, reason in reasons.items()}
        experts = []
        for expert, head in enumerate(heads):
            slot_C = torch.from_numpy(np.cumsum(experts_C == expert) - 1)
            mine_N = torch.from_numpy(experts_C[labels_N] == expert)
            mine_M = torch.from_numpy((held_experts_M == expert) & (experts_C[held_labels_M] == expert))
            known, held = torch.from_numpy(tuned.known_ND)[mine_N], torch.from_numpy(tuned.held_MD)[mine_M]
            size = int((experts_C == expert).sum())
            own = head.weight_QD[:size], head.bias_Q[:size]
            suite, reasons = Suite.fit(known, slot_C[labels[mine_N]], held, slot_C[held_labels[mine_M]], *own)
            experts.append(suite)
            refused |= {f"expert.{detector}": f"expert {expert}: {why}" for detector, why in reasons.items()}
        near = ExpertKNN.build(pretrained.known_ND, None, k), ExpertKNN.build(tuned.known_ND, None, k)
        groups = tuple(heads) if len(heads) > 1 else ()
        text = None
        if texts is not None:
            text, reasons = TextSpace.fit(texts, pretrained.known_ND, labels_N, pretrained.held_MD, held_labels_M)
            refused |= reasons
        return cls(suites["pretrained"], suites["tuned"], tuple(experts), groups, *near, text), refused

    @property
    def of_pretrained(self) -> tuple[str, ...]:
        """Names of the scores on the pre-trained backbone."""
        return ("pretrained.knn", *(f"pretrained.{name}" for name in self.pretrained.names))

    @property
    def of_tuned(self) -> tuple[str, ...]:
        """Names of the scores on the fine-tuned model."""
        everywhere = [name for name in self.tuned.names if all(name in expert.names for expert in self.experts)]
        return (
            "tuned.knn",
            *(f"tuned.{name}" for name in self.tuned.names),
            *(["tuned.mos"] if self.heads else []),
            *(f"expert.{name}" for name in everywhere),
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all scores, those of :attr:`text` last."""
        return (*self.of_pretrained, *self.of_tuned, *(self.text.names if self.text else ()))

    def score_pretrained(self, z_BD: Tensor) -> dict[str, np.ndarray]:
        """The scores :attr:`of_pretrained`, float64 (B,), of embeddings under the pre-trained backbone.

        The embeddings are rounded to float16 first, because extract stores those that the detectors are fitted on so.
        """
        z_BD = z_BD.half().float()
        found = {"pretrained.knn": self.pretrained_knn.score(z_BD.numpy(), np.zeros(len(z_BD), int)).astype(float)}
        return found | {f"pretrained.{name}": score.numpy() for name, score in self.pretrained.score(z_BD).items()}

    def score_tuned(self, z_BD: Tensor, experts_B: np.ndarray) -> dict[str, np.ndarray]:
        """The scores :attr:`of_tuned`, float64 (B,), of embeddings under the fine-tuned model."""
        found = {"tuned.knn": self.tuned_knn.score(z_BD.numpy(), np.zeros(len(z_BD), int)).astype(float)}
        found |= {f"tuned.{name}": score.numpy() for name, score in self.tuned.score(z_BD).items()}
        if self.heads:
            found["tuned.mos"] = mos([z_BD @ head.weight_QD.T + head.bias_Q for head in self.heads]).numpy()
        inside = {name: np.empty(len(z_BD)) for name in self.of_tuned if name.startswith("expert.")}
        for expert, suite in enumerate(self.experts):
            mine = np.flatnonzero(experts_B == expert)
            if mine.size:
                scores = suite.score(z_BD[torch.from_numpy(mine)])
                for name, values_B in inside.items():
                    values_B[mine] = scores[name.removeprefix("expert.")].numpy()
        return found | inside

    def save(self, folder: Path) -> None:
        """Write the detectors into a local folder."""
        suites = {"pretrained": self.pretrained, "tuned": self.tuned}
        suites |= {f"expert-{e:03d}": suite for e, suite in enumerate(self.experts)}
        tensors: dict[str, Tensor] = (
            {} if self.text is None else {f"text/{k}": v for k, v in self.text.tensors().items()}
        )
        tensors |= {
            f"{place}/{key}": value for place, suite in suites.items() for key, value in suite.tensors().items()
        }
        for e, head in enumerate(self.heads):
            tensors |= {f"head-{e:03d}/weight_QD": head.weight_QD, f"head-{e:03d}/bias_Q": head.bias_Q}
        folder.mkdir(parents=True, exist_ok=True)
        save_file({key: value.contiguous().clone() for key, value in tensors.items()}, folder / TENSORS)
        self.pretrained_knn.save(folder / "pretrained")
        self.tuned_knn.save(folder / "tuned")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what :meth:`save` wrote; the indexes are memory-mapped.

        Raises:
            MofeError: a part is missing or damaged.
        """
        try:
            tensors = load_file(folder / TENSORS)
        except Exception as error:  # safetensors has errors of its own
            raise MofeError(f"{folder / TENSORS} cannot be read: {error}") from error
        states: dict[str, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            place, name = key.split("/")
            states.setdefault(place, {})[name] = value
        heads = tuple(Head(**states.pop(place)) for place in sorted(states) if place.startswith("head-"))
        text = TextSpace.of_tensors(states.pop("text")) if "text" in states else None
        suites = {place: Suite.of_tensors(states[place]) for place in sorted(states)}
        experts = tuple(suite for place, suite in suites.items() if place.startswith("expert-"))
        near = ExpertKNN.load(folder / "pretrained"), ExpertKNN.load(folder / "tuned")
        return cls(suites["pretrained"], suites["tuned"], experts, heads, *near, text)
