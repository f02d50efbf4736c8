"""The losses of the router and the experts, and the targets they are measured against (Eq. 8-10).

L = L_route + L_expert + Reg. Under Mixup all targets are soft: λ̂ on the class (or cluster) of x_i, 1 − λ̂ on that of
x_j. An expert that does not know a class calls it "others", the last output of its head.

Axes: B images, E experts, P image–expert pairs, n pairs of one expert, Q classes of one expert.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot


def route_loss(router_logits_BE: Tensor, targets_BE: Tensor) -> Tensor:
    """Cross-entropy of the router with the (soft) cluster of each image, averaged over images (Eq. 8).

    For a router by class, both are B × C.
    """
    return cross_entropy(router_logits_BE.float(), targets_BE)


def expert_loss(logits: Sequence[Tensor], targets: Sequence[Tensor], weights: Sequence[Tensor] | None = None) -> Tensor:
    """Cross-entropy of each expert on the images it was given, averaged over all of them (Eq. 9).

    Args:
        logits: per expert (n_e, Q_e + 1); n_e may be 0.
        targets: per expert the soft targets of the same shape, rows summing to 1.
        weights: per expert the weight (n_e,) of each image's term; 1 if None.
    """
    terms = [cross_entropy(z.float(), t, reduction="none") for z, t in zip(logits, targets, strict=True)]
    if weights is not None:
        terms = [term * weight for term, weight in zip(terms, weights, strict=True)]
    everything = torch.cat(terms)
    return everything.sum() / max(1, len(everything))


def embedding_norm(embedding_PD: Tensor) -> Tensor:
    """Mean squared L2 norm of the final class embeddings: the regulariser ``l2`` of Eq. 10."""
    return embedding_PD.float().pow(2).sum(dim=1).mean()


def router_targets(
    output_of_class_C: Tensor, labels_a_B: Tensor, labels_b_B: Tensor, lam_B: Tensor, num_outputs: int
) -> Tensor:
    """Soft targets (B, outputs): λ̂ on the cluster of x_i, 1 − λ̂ on that of x_j; the same with classes.

    Args:
        output_of_class_C: which output of the router stands for each class: its cluster's, or its own.
        labels_a_B: class of x_i.
        labels_b_B: class of x_j.
        lam_B: λ̂.
        num_outputs: of the router.
    """
    a = one_hot(output_of_class_C[labels_a_B], num_outputs)
    b = one_hot(output_of_class_C[labels_b_B], num_outputs)
    return lam_B[:, None] * a + (1 - lam_B)[:, None] * b


def expert_targets(
    slot_of_class_C: Tensor,
    expert_of_class_C: Tensor,
    expert: int,
    width: int,
    labels_a_n: Tensor,
    labels_b_n: Tensor,
    lam_n: Tensor,
    smoothing: float = 0.0,
) -> Tensor:
    """Soft targets (n, width) of one expert; a class outside its cluster counts as "others", the last slot.

    Args:
        slot_of_class_C: where each class stands in the head of its expert.
        expert_of_class_C: which expert that is.
        width: outputs of this expert's head, Q + 1 (Q if it is the only expert).
        smoothing: share of the target spread evenly over all outputs.
    """
    slots_C = torch.where(expert_of_class_C == expert, slot_of_class_C, width - 1)
    targets = lam_n[:, None] * one_hot(slots_C[labels_a_n], width)
    targets = targets + (1 - lam_n)[:, None] * one_hot(slots_C[labels_b_n], width)
    return targets * (1 - smoothing) + smoothing / width


def pairs_with_negatives(cluster_B: Tensor, num_experts: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Which images each expert is trained on: its own, and as many of other clusters, drawn at random (1 : 1).

    Fewer negatives only where the batch has fewer; an expert with no image of its own gets none.

    Args:
        cluster_B: the expert of each image's class, on the CPU.
        generator: of the CPU.

    Returns:
        ``image_P`` and ``expert_P``: image ``image_P[p]`` goes to expert ``expert_P[p]``. The first B pairs are each
        image with its own expert, in order.
    """
    images = [torch.arange(len(cluster_B))]
    experts = [cluster_B]
    for expert, size in enumerate(torch.bincount(cluster_B, minlength=num_experts).tolist()):
        if size == 0:
            continue
        foreign = torch.nonzero(cluster_B != expert)[:, 0]
        chosen = foreign[torch.randperm(len(foreign), generator=generator)[:size]]
        images.append(chosen)
        experts.append(torch.full_like(chosen, expert))
    return torch.cat(images), torch.cat(experts)
