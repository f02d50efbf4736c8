"""Outputs of the models for a batch of images: the inputs of the detectors in all feature spaces."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Seen(NamedTuple):
    """Outputs of the models for B images, with C classes and D features; float32, on the CPU."""

    tuned_BD: Tensor
    """Embeddings by the fine-tuned model."""
    logits_BC: Tensor
    """Logits of the fine-tuned model, without "others"."""
    experts_B: np.ndarray
    """Experts that the images were routed to."""
    pretrained_BD: Tensor = torch.empty(0)
    """Embeddings by the pre-trained backbone; empty where no space reads them."""
    local_B: Tensor = torch.empty(0)
    """Scores of the patches, see :class:`mofe.inference.local_score.LocalScores`; empty without texts."""
