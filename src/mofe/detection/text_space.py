"""Detectors that use the names of the classes, in the embedding space of a language-image model.

B images, N training images, M held-out ones, C classes, D features, P dimensions of the shared space. All scores are
higher for images that are more in-distribution.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from mofe.detection.concept_matching import gl_mcm, mcm, zero_shot_logits
from mofe.detection.ensemble import cooked, cooked_msp
from mofe.detection.gda import GDA
from mofe.detection.inputs import unit
from mofe.detection.linear_probe import linear_probe
from mofe.detection.moments import ClassMoments
from mofe.detection.negative_labels import neg_label
from mofe.detection.negative_prompts import clipn_atd, clipn_ctw, lsn
from mofe.detection.scores import energy, max_logit, msp
from mofe.detection.seen import Seen
from mofe.detection.stored import as_fields, fields_as_tensors
from mofe.detection.texts import Texts
from mofe.errors import MofeError

CHUNK = 65_536


@dataclass(frozen=True, eq=False)
class TextSpace:
    """The texts, and the classifiers that were fitted on the training images."""

    texts: Texts
    probe_weight_CP: Tensor
    """Weights of COOkeD's linear probe on projected embeddings that are not normalised."""
    probe_bias_C: Tensor
    gda: GDA | None
    """GDA's classifier; None if the data does not allow it."""
    reads_pretrained: ClassVar[bool] = True

    @classmethod
    def fit(
        cls, texts: Texts, known_ND: np.ndarray, labels_N: np.ndarray, held_MD: np.ndarray, held_labels_M: np.ndarray
    ) -> tuple[Self, dict[str, str]]:
        """Fit every detector that the data allows.

        Args:
            texts: texts of the classes.
            known_ND: embeddings of the training images by the pre-trained backbone.
            labels_N: classes of the training images, 0 … C − 1.
            held_MD: embeddings of held-out images.
            held_labels_M: classes of the held-out images.

        Returns:
            The space, and the reason for each score that could not be fitted.
        """
        starts = range(0, len(known_ND), CHUNK)
        chunks = (torch.from_numpy(known_ND[start : start + CHUNK]) for start in starts)
        known_NP = torch.cat([texts.project(z_ND).half() for z_ND in chunks])
        labels = torch.from_numpy(labels_N).long()

        def on_sphere() -> Iterator[tuple[Tensor, Tensor]]:
            for start in starts:
                yield known_NP[start : start + CHUNK].float(), labels[start : start + CHUNK]

        gda, refused = None, {}
        try:
            if len(texts.class_CP) < 2:
                raise MofeError("GDA needs two classes or more")
            moments = ClassMoments.of(on_sphere(), len(texts.class_CP), normalise=True)
            held = texts.project(torch.from_numpy(held_MD)), torch.from_numpy(held_labels_M).long()
            gda = GDA.fit(moments, texts.class_CP, *held, texts.logit_scale)
        except MofeError as error:
            refused = {"text.gda_msp": str(error), "text.gda_energy": str(error)}
        weight_CP, bias_C = linear_probe(known_NP.numpy(), labels_N)
        return cls(texts, weight_CP.contiguous(), bias_C, gda), refused

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the scores that :meth:`score` gives, in its order."""
        given = {
            ("gda_msp", "gda_energy"): self.gda,
            ("neglabel",): self.texts.negative_KP,
            ("clipn_ctw", "clipn_atd"): self.texts.clipn_no_CP,
            ("lsn",): self.texts.lsn_no_JCP,
        }
        always = ("msp", "max_logit", "energy", "mcm", "gl_mcm", "cooked", "cooked_msp")
        found = (*always, *(name for names, what in given.items() if what is not None for name in names))
        return tuple(f"text.{name}" for name in found)

    def score(self, seen: Seen) -> dict[str, np.ndarray]:
        """Score B images: each of :attr:`names`, float64 (B,).

        The run's own model takes the part of COOkeD's classifier that was trained on the images.
        """
        texts, scale = self.texts, self.texts.logit_scale
        image_BP = texts.project(seen.pretrained_BD)
        zero_shot_BC = zero_shot_logits(image_BP, texts.class_CP, scale)
        members = zero_shot_BC, image_BP @ self.probe_weight_CP.T + self.probe_bias_C, seen.logits_BC
        found = {
            "msp": msp(zero_shot_BC),
            "max_logit": max_logit(zero_shot_BC),
            "energy": energy(zero_shot_BC),
            "mcm": mcm(image_BP, texts.class_CP),
            "gl_mcm": gl_mcm(image_BP, texts.class_CP, seen.local_B),
            "cooked": cooked(members),
            "cooked_msp": cooked_msp(members),
        }
        if self.gda is not None:
            gda_BC = self.gda.logits(image_BP)
            found |= {"gda_msp": _log_odds(gda_BC), "gda_energy": gda_BC.logsumexp(dim=1)}
        if texts.nice_CP is not None and texts.negative_KP is not None:
            found["neglabel"] = neg_label(image_BP, texts.nice_CP, texts.negative_KP, logit_scale=scale)
        if texts.clipn_no_CP is not None:
            prompts = texts.class_CP, texts.clipn_no_CP, scale
            found |= {"clipn_ctw": clipn_ctw(image_BP, *prompts), "clipn_atd": clipn_atd(image_BP, *prompts)}
        if texts.lsn_yes_CP is not None and texts.lsn_no_JCP is not None:
            found["lsn"] = lsn(image_BP, texts.lsn_yes_CP, tuple(texts.lsn_no_JCP))
        return {f"text.{name}": values_B.double().numpy() for name, values_B in found.items()}

    def classify(self, z_BD: Tensor) -> np.ndarray:
        """Predict the class whose text is nearest: (B,) int64."""
        image_BP = unit(self.texts.project(z_BD))
        return (image_BP @ self.texts.class_CP.T).argmax(dim=1).numpy()

    def tensors(self) -> dict[str, Tensor]:
        """The space as tensors, to be stored; :meth:`of_tensors` reverses it."""
        state = {f"texts.{name}": value for name, value in self.texts.tensors().items()}
        state |= {"probe.weight_CP": self.probe_weight_CP, "probe.bias_C": self.probe_bias_C}
        if self.gda is not None:
            state |= {f"gda.{field}": value for field, value in fields_as_tensors(self.gda).items()}
        return state

    @classmethod
    def of_tensors(cls, state: Mapping[str, Tensor]) -> Self:
        """Make the space whose :meth:`tensors` are ``state``."""

        def part(prefix: str) -> dict[str, Tensor]:
            return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}

        fitted = as_fields(part("gda."))
        gda = GDA(**fitted) if fitted else None
        return cls(Texts.of_tensors(part("texts.")), state["probe.weight_CP"], state["probe.bias_C"], gda)


def _log_odds(logits_BC: Tensor) -> Tensor:
    """log p / (1 − p) of the maximum softmax probability p; p has the same order, but rounds to 1 for GDA's logits."""
    top_B1, at_B1 = logits_BC.max(dim=1, keepdim=True)
    return top_B1.squeeze(1) - logits_BC.scatter(1, at_B1, -torch.inf).logsumexp(dim=1)
