"""One forward pass of training: images and labels in, the parts of the loss out."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from mofe.models.mofe import MoFE, by_expert
from mofe.training.losses import (
    embedding_norm,
    expert_loss,
    expert_targets,
    pairs_with_negatives,
    route_loss,
    router_targets,
)
from mofe.training.mixup import Mixed


class Losses(NamedTuple):
    """The parts of L = L_route + L_expert + Reg (Eq. 10); scalars."""

    route: Tensor
    expert: Tensor
    regulariser: Tensor

    @property
    def total(self) -> Tensor:
        return self.route + self.expert + self.regulariser


def losses_of(
    model: MoFE,
    router_outputs: Tensor,
    embedding_PD: Tensor,
    image_P: Tensor,
    expert_P: Tensor,
    batch: Mixed,
    *,
    regulariser: str,
    weight: float,
    negative_weight: float = 1.0,
) -> Losses:
    """The losses of a batch whose pairs (image, expert) have been embedded.

    Tensors are on the model's device; the pairs may be on the CPU, and then the host does not wait for the device.
    """
    clusters_C, slots_C = model.expert_of_class_C, model.slot_of_class_C
    _, a_B, b_B, lam_B = batch
    outputs_C = model.router_output_of_class_C
    route = route_loss(router_outputs, router_targets(outputs_C, a_B, b_B, lam_B, router_outputs.shape[1]))

    device = embedding_PD.device
    order_P, sizes = by_expert(expert_P, model.num_experts)
    image_by_expert = image_P[order_P].to(device, non_blocking=True).split(sizes)
    embedding_by_expert = embedding_PD[order_P.to(device, non_blocking=True)].split(sizes)
    smoothing = weight if regulariser == "label-smoothing" else 0.0
    logits, targets, weights = [], [], []
    with torch.autocast(device.type, enabled=False):
        for expert, head in enumerate(model.heads):
            i = image_by_expert[expert]
            logits.append(head(embedding_by_expert[expert].float()))
            width = model.head_widths[expert]
            targets.append(expert_targets(slots_C, clusters_C, expert, width, a_B[i], b_B[i], lam_B[i], smoothing))
            weights.append(torch.where(clusters_C[a_B[i]] == expert, 1.0, negative_weight))
    penalty = weight * embedding_norm(embedding_PD) if regulariser == "l2" else route.new_zeros(())
    return Losses(route, expert_loss(logits, targets, weights), penalty)


class TrainingStep(nn.Module):
    """The model with its losses as one module, which is what a gradient reducer wants to wrap.

    Args:
        model: the MoFE to train.
        regulariser: ``none``, ``l2`` (mean squared norm of the final class embedding) or ``label-smoothing``.
        weight: of the regulariser; for label smoothing, the share of the target that is spread.
        negative_weight: of the images of other clusters in the expert loss; 1 in the paper, 0.1 in the authors' code.
        compiled: compile the trunk, where nearly all time is spent; the first batch takes half a minute longer then.
    """

    def __init__(
        self, model: MoFE, regulariser: str, weight: float, negative_weight: float = 1.0, *, compiled: bool = False
    ):
        super().__init__()
        self.model = model
        self.tokens = torch.compile(model.tokens) if compiled else model.tokens
        self.regulariser = regulariser
        self.weight = weight
        self.negative_weight = negative_weight

    def forward(self, batch: Mixed, generator: torch.Generator) -> Losses:
        """Losses of a batch; each expert sees its own images and as many others (``generator``, of the CPU, picks)."""
        model = self.model
        cluster_B = model.expert_of_class_C[batch.labels_a].cpu()  # before the device has anything long to do
        image_P, expert_P = pairs_with_negatives(cluster_B, model.num_experts, generator)
        tokens_BTD = self.tokens(batch.images)
        router_outputs = model.router_outputs(tokens_BTD[:, 0])
        embedding_PD = model.norm(model.run_experts(tokens_BTD, image_P, expert_P))
        return losses_of(
            model,
            router_outputs,
            embedding_PD,
            image_P,
            expert_P,
            batch,
            regulariser=self.regulariser,
            weight=self.weight,
            negative_weight=self.negative_weight,
        )
