"""Distances from Gaussians fitted to the features: Mahalanobis, Mahalanobis++, relative Mahalanobis, SSD.

B images, C classes, D features, R directions in which the features vary. A covariance Σ is factored once, Σ⁺ = W Wᵀ
with W of shape (D, R), and the class means are whitened with W. So a score costs one product with W and one with the
means.

Directions in which the training features do not vary (fewer images than dimensions, a constant feature) do not count:
Σ⁺ is the pseudo-inverse, as in scikit-learn's ``EmpiricalCovariance``, which the official codes use. Theirs keeps every
direction whose variance is above float64's rounding. After a layer norm there is always a direction in which float32
features vary by their rounding alone; with it an image's distance would depend on the batch size. So the rank is
decided at float32's precision here. Rounding features to the precision that they are stored in adds 1/12 of a squared
step to every variance. So a direction also counts only if its variance is above one squared step, in float16 too.

Everything is in float64, because the covariance of trained features has eigenvalues over many orders of magnitude.
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from mofe.detection.inputs import check_features, unit
from mofe.detection.moments import ClassMoments
from mofe.errors import MofeError


@dataclass(frozen=True, eq=False)
class Mahalanobis:
    """Minus the squared distance to the nearest class mean (Lee et al., 2018, a single layer without input noise).

    S(z) = max_c −(z − μ_c)ᵀ Σ⁺ (z − μ_c), Σ = (1/N) Σ_i (z_i − μ_{y_i}) (z_i − μ_{y_i})ᵀ. The official code has an
    additional factor ½, OpenOOD's MDS does not. Fitted on moments of normalised features this is Mahalanobis++ (Müller
    and Hein, 2025), which also normalises the features that it scores. There is no hyperparameter.
    """

    centre_D: Tensor
    whitening_DR: Tensor
    means_CR: Tensor
    normalise: bool

    @classmethod
    def fit(cls, moments: ClassMoments) -> Self:
        """Fit on moments of the training features; raises MofeError if the features of no class vary."""
        whitening_DR = _whitening(moments.within_DD / moments.count, moments.step_D)
        return cls(moments.mean_D, whitening_DR, (moments.mean_CD - moments.mean_D) @ whitening_DR, moments.normalise)

    def score(self, z_BD: Tensor) -> Tensor:
        """Score B images: (B,) float64, at most 0."""
        return -_nearest(_centre(z_BD, self.centre_D, self.normalise) @ self.whitening_DR, self.means_CR)


@dataclass(frozen=True, eq=False)
class RelativeMahalanobis:
    """Minus the difference of the distances to the nearest class and to all training features (Ren et al., 2021).

    S(z) = max_c −(d_c(z) − d_0(z)), with d_c as in :class:`Mahalanobis` and d_0 the squared distance under one Gaussian
    of all training features. There is no hyperparameter.
    """

    centre_D: Tensor
    whitening_DR: Tensor
    means_CR: Tensor
    background_DR: Tensor
    normalise: bool

    @classmethod
    def fit(cls, moments: ClassMoments) -> Self:
        """Fit on moments; raises MofeError if no class varies, or the only class's Gaussian is the background's."""
        if len(moments.count_C) < 2:
            raise MofeError("relative Mahalanobis needs two classes or more: with one, every distance is 0")
        near = Mahalanobis.fit(moments)
        background_DR = _whitening(moments.scatter_around(moments.mean_D) / moments.count, moments.step_D)
        return cls(near.centre_D, near.whitening_DR, near.means_CR, background_DR, near.normalise)

    def score(self, z_BD: Tensor) -> Tensor:
        """Score B images: (B,) float64, of either sign."""
        centred_BD = _centre(z_BD, self.centre_D, self.normalise)
        near_B = _nearest(centred_BD @ self.whitening_DR, self.means_CR)
        return (centred_BD @ self.background_DR).square().sum(dim=1) - near_B


@dataclass(frozen=True, eq=False)
class SSD:
    """Minus the squared distance from one Gaussian of all features on the unit sphere (Sehwag et al., 2021).

    S(z) = −(ẑ − μ)ᵀ Σ⁺ (ẑ − μ), ẑ = z / ‖z‖, Σ = (1/N) Σ_i (ẑ_i − μ) (ẑ_i − μ)ᵀ. It has one cluster, the official
    default; SSD+ and PALM use the same score. The official code also divides each feature by its standard deviation,
    which changes no distance. PALM's then subtracts the mean of the undivided features, an error not repeated here.
    """

    centre_D: Tensor
    whitening_DR: Tensor

    @classmethod
    def fit(cls, moments: ClassMoments) -> Self:
        """Fit on moments of normalised features; raises MofeError if they are not normalised, or do not vary."""
        if not moments.normalise:
            raise MofeError("SSD needs features on the unit sphere: take the moments with normalise=True")
        return cls(moments.mean_D, _whitening(moments.scatter_around(moments.mean_D) / moments.count, moments.step_D))

    def score(self, z_BD: Tensor) -> Tensor:
        """Score B images: (B,) float64, at most 0."""
        return -(_centre(z_BD, self.centre_D, True) @ self.whitening_DR).square().sum(dim=1)


def _whitening(covariance_DD: Tensor, step_D: Tensor) -> Tensor:
    """W (D, R) with W Wᵀ = Σ⁺.

    R is the rank by NumPy's rule for D features of float32, without directions of less than a squared step's variance.
    """
    value_D, vector_DD = torch.linalg.eigh(covariance_DD)
    negligible = value_D[-1] * (len(value_D) * torch.finfo(torch.float32).eps) ** 2
    kept_D = value_D > (step_D @ vector_DD.square()).clamp(min=negligible)
    if not bool(kept_D.any()):
        raise MofeError("the training features do not vary: they have no covariance to measure a distance with")
    return (vector_DD[:, kept_D] / value_D[kept_D].sqrt()).contiguous()


def _centre(z_BD: Tensor, centre_D: Tensor, normalise: bool) -> Tensor:
    z_BD = check_features(z_BD, len(centre_D)).to(centre_D)
    return (unit(z_BD) if normalise else z_BD) - centre_D


def _nearest(z_BR: Tensor, means_CR: Tensor) -> Tensor:
    """Squared Euclidean distance to the nearest mean, (B,)."""
    offset_BC = means_CR.square().sum(dim=1) - 2 * z_BR @ means_CR.T
    return (z_BR.square().sum(dim=1) + offset_BC.amin(dim=1)).clamp(min=0)
