"""What the models made of a batch of images: all that a detector of any feature space scores it by."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Seen(NamedTuple):
    """B images, C classes, D features; float32, on the CPU."""

    tuned_BD: Tensor
    """Embeddings of the fine-tuned model."""
    logits_BC: Tensor
    """Logits of the fine-tuned model, without "others"."""
    experts_B: np.ndarray
    """Experts that the images were routed to."""
    pretrained_BD: Tensor = torch.empty(0)
    """Embeddings of the pre-trained backbone; empty where no space reads them."""
    local_B: Tensor = torch.empty(0)
    """What the patches show: see :class:`mofe.inference.local_score.LocalScores`; empty without texts."""
