"""All post-hoc detectors that one feature space allows, fitted together and scored together.

A feature space is an embedding and a linear head on it. B images, N training images, M held-out ones, C classes,
D features. All scores are higher for images that are more in-distribution.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

import torch
from torch import Tensor

from mofe.detection.activations import DICE, ReAct, ash_b, ash_p, ash_s, head_energy, scale
from mofe.detection.decision_boundary import FDBD
from mofe.detection.gaussian import SSD, Mahalanobis, RelativeMahalanobis
from mofe.detection.hopfield import SHE
from mofe.detection.kl_matching import KLMatching
from mofe.detection.moments import ClassMoments
from mofe.detection.nnguide import NNGuide
from mofe.detection.scores import energy, generalised_entropy, max_logit, msp, negative_entropy
from mofe.detection.stored import as_fields, fields_as_tensors
from mofe.detection.subspace import Residual, ViM
from mofe.detection.temperature import HIGHEST, LOWEST, NEUTRAL, TemperatureScaling
from mofe.errors import MofeError

FITTED: dict[str, Any] = {
    "temperature": TemperatureScaling,
    "kl_matching": KLMatching,
    "mahalanobis": Mahalanobis,
    "mahalanobis++": Mahalanobis,
    "relative_mahalanobis": RelativeMahalanobis,
    "ssd": SSD,
    "residual": Residual,
    "vim": ViM,
    "react": ReAct,
    "dice": DICE,
    "she": SHE,
    "nnguide": NNGuide,
    "fdbd": FDBD,
}
"""Detectors that are fitted on the training images, by the name of their score."""
UNFITTED = ("msp", "max_logit", "energy", "entropy", "gen", "ash_p", "ash_b", "ash_s", "scale")

CHUNK = 65_536
BANK = 12_812
"""Number of images in NNGuide's bank: 1 % of ImageNet-1K, as in its official code."""
SAMPLE = 100_000
"""Number of images for ReAct's quantile, ViM's α and the typical posteriors of KL matching."""


@dataclass(frozen=True, eq=False)
class Suite:
    """The detectors of one feature space."""

    weight_CD: Tensor
    bias_C: Tensor
    fitted: Mapping[str, Any]
    """Instances of :data:`FITTED`, by name, without those that the data does not allow."""

    @classmethod
    def fit(
        cls, z_ND: Tensor, labels_N: Tensor, held_MD: Tensor, held_labels_M: Tensor, weight_CD: Tensor, bias_C: Tensor
    ) -> tuple[Self, dict[str, str]]:
        """Fit every detector that the data allows.

        Args:
            z_ND: training features, in the precision that they were stored in.
            labels_N: classes of the training features, 0 … C − 1.
            held_MD: features of held-out images of known classes. Only the temperature, one number, is fitted on them,
                because a detector that fits more on them cannot be calibrated on them.
            held_labels_M: classes of the held-out images.
            weight_CD: weights of the linear head.
            bias_C: biases of the linear head.

        Returns:
            The suite, and for each detector that could not be fitted, by name, the reason.
        """
        num_classes = len(bias_C)
        weight_CD = weight_CD.contiguous()

        def chunks() -> Iterator[tuple[Tensor, Tensor]]:
            for start in range(0, len(z_ND), CHUNK):
                yield z_ND[start : start + CHUNK], labels_N[start : start + CHUNK]

        def logits(z_BD: Tensor) -> Tensor:
            return z_BD.float() @ weight_CD.T + bias_C

        plain = ClassMoments.of(chunks(), num_classes)
        on_sphere = ClassMoments.of(chunks(), num_classes, normalise=True)
        sample = _spread(z_ND, SAMPLE)
        bank = _spread(z_ND, BANK)
        fits: dict[str, Callable[[], Any]] = {
            "temperature": lambda: _temperature(logits(held_MD), held_labels_M),
            "kl_matching": lambda: KLMatching.fit(logits(sample)),
            "mahalanobis": lambda: Mahalanobis.fit(plain),
            "mahalanobis++": lambda: Mahalanobis.fit(on_sphere),
            "relative_mahalanobis": lambda: RelativeMahalanobis.fit(plain),
            "ssd": lambda: SSD.fit(on_sphere),
            "residual": lambda: Residual.fit(plain, weight_CD, bias_C),
            "vim": lambda: ViM.fit(plain, [sample], weight_CD, bias_C),
            "react": lambda: ReAct.fit(sample),
            "dice": lambda: DICE.fit(plain.mean_D, weight_CD, bias_C),
            "she": lambda: SHE.fit(((z.float(), y, logits(z).argmax(dim=1)) for z, y in chunks()), num_classes),
            "nnguide": lambda: NNGuide.fit(bank, logits(bank)),
            "fdbd": lambda: FDBD.fit(plain.mean_D, weight_CD, bias_C),
        }
        fitted, refused = {}, {}
        for name, fit in fits.items():
            try:
                fitted[name] = fit()
            except MofeError as error:
                refused[name] = str(error)
        return cls(weight_CD, bias_C, fitted), refused

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the scores that :meth:`score` gives, in its order."""
        return (*UNFITTED, *self.fitted)

    def score(self, z_BD: Tensor) -> dict[str, Tensor]:
        """Score B images: each of :attr:`names`, float64 (B,)."""
        z_BD = z_BD.float()
        head = self.weight_CD, self.bias_C
        logits_BC = z_BD @ self.weight_CD.T + self.bias_C
        by_logits = {
            "msp": msp,
            "max_logit": max_logit,
            "energy": energy,
            "entropy": negative_entropy,
            "gen": generalised_entropy,
        }
        found = {name: score(logits_BC) for name, score in by_logits.items()}
        by_shaping = {"ash_p": ash_p, "ash_b": ash_b, "ash_s": ash_s, "scale": scale}
        found |= {name: head_energy(shape(z_BD), *head) for name, shape in by_shaping.items()}
        scorers: dict[str, Callable[[Any], Tensor]] = {
            "temperature": lambda detector: detector.score(logits_BC),
            "kl_matching": lambda detector: detector.score(logits_BC),
            "react": lambda detector: detector.score(z_BD, *head),
            "she": lambda detector: detector.score(z_BD, logits_BC.argmax(dim=1)),
            "nnguide": lambda detector: detector.score(z_BD, logits_BC),
        }
        for name, detector in self.fitted.items():
            found[name] = scorers[name](detector) if name in scorers else detector.score(z_BD)
        return {name: values_B.double() for name, values_B in found.items()}

    def tensors(self) -> dict[str, Tensor]:
        """The suite as tensors, to be stored; :meth:`of_tensors` reverses it."""
        state = {"head.weight_CD": self.weight_CD, "head.bias_C": self.bias_C}
        for name, detector in self.fitted.items():
            state |= {f"{name}.{field}": value for field, value in fields_as_tensors(detector).items()}
        return state

    @classmethod
    def of_tensors(cls, state: Mapping[str, Tensor]) -> Self:
        """Make the suite whose :meth:`tensors` are ``state``."""
        fitted = {}
        for name, kind in FITTED.items():
            if any(key.startswith(f"{name}.") for key in state):
                values = {field.name: state[f"{name}.{field.name}"] for field in fields(kind)}
                fitted[name] = kind(**as_fields(values))
        return cls(state["head.weight_CD"], state["head.bias_C"], fitted)


def _temperature(logits_MC: Tensor, labels_M: Tensor) -> TemperatureScaling:
    fitted = TemperatureScaling.fit(logits_MC, labels_M)
    if fitted.temperature in (LOWEST, NEUTRAL, HIGHEST):
        raise MofeError(
            "there is no best temperature: every held-out image is right, or the logits carry no information"
        )
    return fitted


def _spread(z_ND: Tensor, most: int) -> Tensor:
    """At most ``most`` rows, evenly spaced, in float32."""
    if len(z_ND) <= most:
        return z_ND.float()
    return z_ND[torch.linspace(0, len(z_ND) - 1, most, dtype=torch.float64).round().long()].float()
