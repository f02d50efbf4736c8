"""Softmax probabilities at the temperature at which they are calibrated."""

from dataclasses import dataclass
from typing import Self

import torch
from scipy.optimize import brentq
from torch import Tensor

from mofe.detection.inputs import check_labels
from mofe.detection.scores import msp
from mofe.errors import MofeError

LOWEST, NEUTRAL, HIGHEST = 1e-4, 1.0, 1e4
"""The temperatures that stand for one that the images do not decide."""


@dataclass(frozen=True)
class TemperatureScaling:
    """MSP of l / T, with T fitted on held-out images (Guo et al., 2017): S = max_c softmax(l / T)_c.

    T minimises the mean negative log-likelihood of the labels. It is convex in 1 / T, so the minimum is at the zero of
    its slope, which is found by Brent's method. The official code takes up to 50 steps of L-BFGS from T = 1.5.
    """

    temperature: float

    @classmethod
    def fit(cls, logits_NC: Tensor, labels_N: Tensor) -> Self:
        """Fit on held-out images of known classes.

        If the likelihood has no maximum, T is 1e-4 (every image is right) or 1e4 (the logits carry no information). If
        it is the same at every T, because the logits of each image are equal, T is 1.

        Raises:
            MofeError: there is no image, a label is invalid, or an image's logit of its own class is not finite.
        """
        logits_NC, labels_N = logits_NC.double(), check_labels(labels_N, len(logits_NC), logits_NC.shape[1])
        if not len(logits_NC):
            raise MofeError("there are no held-out images to fit a temperature on")
        own_N1 = logits_NC.gather(1, labels_N[:, None])
        without_logit = int((~own_N1.isfinite()).sum())
        if without_logit:
            raise MofeError(
                f"{without_logit} of {len(logits_NC)} held-out images have no finite logit at their own class, so no "
                "temperature makes that class likely: leave them out"
            )
        lead_NC = logits_NC - own_N1
        if not lead_NC[lead_NC.isfinite()].any():
            return cls(NEUTRAL)

        def slope(inverse: float) -> float:
            """Slope of the negative log-likelihood in 1 / T: the mean lead over the own class under the softmax."""
            p_NC = (inverse * lead_NC).softmax(dim=1)
            return float(torch.where(p_NC > 0, p_NC * lead_NC, 0).sum(dim=1).mean())

        if slope(1 / LOWEST) <= 0:
            return cls(LOWEST)
        if slope(1 / HIGHEST) >= 0:
            return cls(HIGHEST)
        return cls(1 / brentq(slope, 1 / HIGHEST, 1 / LOWEST, xtol=1e-15, rtol=1e-12))

    def score(self, logits_BC: Tensor) -> Tensor:
        """Score B images: (B,) in (0, 1]."""
        return msp(logits_BC, temperature=self.temperature)
