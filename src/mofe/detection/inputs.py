"""Checks of the detectors' inputs: the right shape and finite values.

B images, N training images, C classes, D features.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import linear

from mofe.arguments import number, tensor
from mofe.errors import MofeError

PART = 1024
"""Number of rows that a detector works on at once."""


def check_features(features_BD: Tensor, width: int | None = None) -> Tensor:
    """Return the features unchanged, after a check.

    Raises:
        MofeError: the features are not a matrix, have another width, or one of them is not finite.
    """
    if features_BD.ndim != 2 or not features_BD.shape[1]:
        raise MofeError(f"features of shape {tuple(features_BD.shape)} are not one row of numbers for each image")
    if width is not None and features_BD.shape[1] != width:
        raise MofeError(f"the features have {features_BD.shape[1]} dimensions, the detector was fitted on {width}")
    if not bool(features_BD.sum().isfinite()):  # fast; a finite sum has finite terms, but large terms may overflow it
        bad = (~features_BD.isfinite().all(dim=1)).nonzero()
        if len(bad):
            raise MofeError(f"feature {int(bad[0])} of {len(features_BD)} is not finite")
    return features_BD


def check_logits(logits_BC: Tensor, temperature: float = 1.0) -> Tensor:
    """Return the logits unchanged, after a check of their form; −inf is allowed.

    Raises:
        MofeError: they are not a matrix of floats with a column for each class, or the temperature is not above 0.
    """
    number("temperature", temperature, 0, above=True)
    if not tensor("logits", logits_BC, 2).shape[1]:
        raise MofeError(f"logits of shape {tuple(logits_BC.shape)} have no class")
    return logits_BC


def check_labels(labels_N: Tensor, count: int, num_classes: int) -> Tensor:
    """The labels as int64.

    Raises:
        MofeError: there are not ``count`` labels, or a label is not a class.
    """
    if labels_N.shape != (count,):
        raise MofeError(f"{count} features need {count} labels, not labels of shape {tuple(labels_N.shape)}")
    bad = ((labels_N < 0) | (labels_N >= num_classes)).nonzero()
    if len(bad):
        raise MofeError(f"label {int(labels_N[bad[0]])} at row {int(bad[0])} is not one of {num_classes} classes")
    return labels_N.long()


def wide(values: Tensor) -> Tensor:
    """Convert half precision to float32; float32 and float64 stay unchanged."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def in_parts(function: Callable[..., Tensor], *rows: Tensor) -> Tensor:
    """Apply ``function`` to ``PART`` rows at a time and join the results; so intermediates stay in the CPU's cache."""
    return torch.cat([function(*part) for part in zip(*(tensor.split(PART) for tensor in rows), strict=True)])


def unit(features_BD: Tensor) -> Tensor:
    """Divide each row by its Euclidean length, in float32 or better.

    Raises:
        MofeError: a row is zero, and so has no direction.
    """
    features_BD = wide(features_BD)
    return features_BD / lengths(features_BD)


def lengths(features_BD: Tensor) -> Tensor:
    """Euclidean length of each row, (B, 1).

    Raises:
        MofeError: a row is zero.
    """
    length_B1 = torch.linalg.vector_norm(features_BD, dim=-1, keepdim=True)
    if not bool(length_B1.all()):
        row = int((length_B1.flatten() == 0).nonzero()[0])
        raise MofeError(f"feature {row} of {length_B1.numel()} is zero: it has no direction")
    return length_B1


def head_logits(z_BD: Tensor, weight_CD: Tensor, bias_C: Tensor) -> Tensor:
    """W z + b, (B, C), in the precision and on the device of the features."""
    return linear(z_BD, weight_CD.to(z_BD), bias_C.to(z_BD))


def check_head(weight_CD: Tensor, bias_C: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Check a linear head, and return its weights and biases contiguous, so that they can be stored.

    Raises:
        MofeError: weights and biases do not fit each other or features of that width, or are not finite.
    """
    if weight_CD.ndim != 2 or bias_C.shape != weight_CD.shape[:1]:
        raise MofeError(
            f"weights {tuple(weight_CD.shape)} and biases {tuple(bias_C.shape)} are not a head: it needs a row of "
            "weights and a bias for each class"
        )
    if weight_CD.shape[1] != width:
        raise MofeError(f"the head reads {weight_CD.shape[1]} dimensions, the features have {width}")
    if not bool(weight_CD.isfinite().all() & bias_C.isfinite().all()):
        raise MofeError("a weight or bias of the head is not finite")
    return weight_CD.contiguous(), bias_C.contiguous()
