"""One forward pass of training: computes the parts of the loss from images and labels."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from mofe.device import to_device
from mofe.models.mofe import MoFE
from mofe.training.losses import embedding_norm, expert_loss, expert_targets, route_loss, router_targets
from mofe.training.mixup import Mixed


class Losses(NamedTuple):
    """The parts of L = L_route + L_expert (Eq. 8-10) + Reg (Eq. 14); scalars."""

    route: Tensor
    expert: Tensor
    regulariser: Tensor

    @property
    def total(self) -> Tensor:
        return self.route + self.expert + self.regulariser


class Pairs(NamedTuple):
    """P pairs of an image and an expert, with the expert's embedding of the image."""

    embedding_PD: Tensor
    image_P: Tensor
    """Position of the image in the batch."""
    expert_P: Tensor


def losses_of(
    model: MoFE,
    router_outputs: Tensor,
    pairs: Pairs,
    batch: Mixed,
    *,
    regulariser: str,
    weight: float,
    negative_weight: float = 1.0,
) -> Losses:
    """Compute the losses of a batch from the embeddings of its pairs.

    Tensors are on the model's device. ``image_P`` and ``expert_P`` may be on the CPU; then the host does not wait for
    the device.
    """
    embedding_PD = pairs.embedding_PD
    _, a_B, b_B, lam_B = batch
    outputs_C = model.router_output_of_class_C
    route = route_loss(router_outputs, router_targets(outputs_C, a_B, b_B, lam_B, router_outputs.shape[1]))

    image_P, expert_P = (to_device(t, embedding_PD.device) for t in (pairs.image_P, pairs.expert_P))
    a_P, b_P, lam_P = (t[image_P] for t in (a_B, b_B, lam_B))
    own_PQ = model.expert_of_output_Q == expert_P[:, None]
    targets_PQ = expert_targets(
        model.output_for(a_P, expert_P),
        model.output_for(b_P, expert_P),
        lam_P,
        own_PQ,
        weight if regulariser == "label-smoothing" else 0.0,
    )
    logits_PQ = model.head_outputs(embedding_PD).masked_fill(~own_PQ, -torch.inf)
    weight_P = torch.where(model.expert_of_class_C[a_P] == expert_P, 1.0, negative_weight)
    expert = expert_loss(logits_PQ, targets_PQ, weight_P)
    penalty = weight * embedding_norm(embedding_PD) if regulariser == "l2" else route.new_zeros(())
    return Losses(route, expert, penalty)


class TrainingStep(nn.Module):
    """The model and its losses as one module, because DistributedDataParallel wraps one module.

    Args:
        model: the MoFE to train.
        regulariser: ``none``, ``l2`` (mean squared norm of the final class embedding) or ``label-smoothing``.
        weight: weight of the regulariser; for label smoothing, the share of the target that is spread.
        negative_weight: weight of images of other clusters in the expert loss; 1 in the paper, 0.1 in the authors'
            code.
        compiled: whether to compile the trunk, which takes nearly all the time; the first batch then takes 20 s longer.
    """

    def __init__(
        self, model: MoFE, regulariser: str, weight: float, negative_weight: float = 1.0, *, compiled: bool = False
    ):
        super().__init__()
        self.model = model
        # the trunk as a whole: blocks differ in their drop-path rate, so each would be compiled separately
        self.tokens = torch.compile(model.tokens) if compiled else model.tokens
        self.regulariser = regulariser
        self.weight = weight
        self.negative_weight = negative_weight

    def forward(self, batch: Mixed, image_P: Tensor, expert_P: Tensor) -> Losses:
        """Losses of a batch; image ``image_P[p]`` goes through expert ``expert_P[p]``, both on the CPU."""
        model = self.model
        tokens_BTD = self.tokens(batch.images)
        router_outputs = model.router_outputs(tokens_BTD[:, 0])
        embedding_PD = model.norm(model.run_experts(tokens_BTD, image_P, expert_P))
        return losses_of(
            model,
            router_outputs,
            Pairs(embedding_PD, image_P, expert_P),
            batch,
            regulariser=self.regulariser,
            weight=self.weight,
            negative_weight=self.negative_weight,
        )
