"""The losses of the router and the experts, and their targets (Eq. 8-10).

L = L_route + L_expert + Reg. Under Mixup all targets are soft: λ̂ on the class (or cluster) of x_i, 1 − λ̂ on that of
x_j. A class outside an expert's cluster counts as "others", the last output of the expert's head.

Axes: B images, E experts, P image–expert pairs, Q outputs of all experts' heads.
"""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from mofe.arguments import number, same_length, tensor
from mofe.errors import MofeError


def route_loss(router_logits_BE: Tensor, targets_BE: Tensor) -> Tensor:
    """Cross-entropy of the router with the (soft) cluster of each image, averaged over images.

    For a router by class, both are B × C.

    Raises:
        MofeError: they are not two matrices of floats of the same shape, with a column at least.
    """
    _check_alike(router_logits=router_logits_BE, targets=targets_BE)
    return cross_entropy(router_logits_BE.float(), targets_BE)


def expert_loss(logits_PQ: Tensor, targets_PQ: Tensor, weight_P: Tensor | float = 1.0) -> Tensor:
    """Cross-entropy of each pair's expert with the image's soft label, averaged over all pairs.

    Args:
        logits_PQ: logits, −inf at outputs that are not the expert's.
        targets_PQ: soft targets, 0 at outputs that are not the expert's; rows sum to 1.
        weight_P: weight of each pair's term.
    """
    _check_alike(logits=logits_PQ, targets=targets_PQ)
    if isinstance(weight_P, Tensor):
        same_length(logits=logits_PQ, weights=tensor("weights", weight_P, 1))
    else:
        number("weight", weight_P)
    log_p_PQ = logits_PQ.float().log_softmax(dim=1)
    terms_P = -(targets_PQ * log_p_PQ).masked_fill(targets_PQ == 0, 0).sum(dim=1)
    return (weight_P * terms_P).sum() / max(1, len(terms_P))


def _check_alike(**matrices: Tensor) -> None:
    """Refuse matrices of different shapes, or without a column."""
    shapes = {tuple(tensor(name, matrix, 2).shape) for name, matrix in matrices.items()}
    if len(shapes) > 1 or 0 in next(iter(shapes))[1:]:
        words = ", ".join(f"{name} {tuple(matrix.shape)}" for name, matrix in matrices.items())
        raise MofeError(f"expected two matrices of the same shape, with a column at least: {words}")


def embedding_norm(embedding_PD: Tensor) -> Tensor:
    """Mean squared L2 norm of the final class embeddings: the regulariser ``l2`` (Reg, Eq. 14)."""
    return embedding_PD.float().pow(2).sum(dim=1).mean()


def router_targets(
    output_of_class_C: Tensor, labels_a_B: Tensor, labels_b_B: Tensor, lam_B: Tensor, num_outputs: int
) -> Tensor:
    """Soft targets (B, outputs): λ̂ on the cluster of x_i, 1 − λ̂ on that of x_j; the same with classes.

    Args:
        output_of_class_C: position of the router's output for each class: that of its cluster, or its own.
        labels_a_B: class of x_i.
        labels_b_B: class of x_j.
        lam_B: λ̂ of each image.
        num_outputs: number of the router's outputs.
    """
    a = one_hot(output_of_class_C[labels_a_B], num_outputs)
    b = one_hot(output_of_class_C[labels_b_B], num_outputs)
    return lam_B[:, None] * a + (1 - lam_B)[:, None] * b


def expert_targets(a_P: Tensor, b_P: Tensor, lam_P: Tensor, own_PQ: Tensor, smoothing: float = 0.0) -> Tensor:
    """Soft targets (P, Q): λ̂ on the expert's output for the class of x_i, 1 − λ̂ on its output for the class of x_j.

    Args:
        a_P: position of the expert's output for the class of x_i: the class's own, or "others" if it is not in the
            expert's cluster.
        b_P: position of the output for the class of x_j; it may be the same.
        lam_P: λ̂ of each pair's image.
        own_PQ: whether an output belongs to the pair's expert.
        smoothing: share of the target that is spread evenly over the expert's outputs.
    """
    output_Q, lam_P1 = torch.arange(own_PQ.shape[1], device=a_P.device), lam_P[:, None]
    targets_PQ = lam_P1 * (output_Q == a_P[:, None]) + (1 - lam_P1) * (output_Q == b_P[:, None])
    return targets_PQ * (1 - smoothing) + smoothing * own_PQ / own_PQ.sum(dim=1, keepdim=True)


def pairs_with_negatives(cluster_B: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Choose each expert's training images: its own, and equally many of other clusters, drawn at random (1 : 1).

    An expert gets fewer negatives if the batch has fewer, and no images if none is of its cluster.

    Args:
        cluster_B: expert of each image's class, on the CPU.
        generator: random generator of the CPU.

    Returns:
        ``image_P`` and ``expert_P``: image ``image_P[p]`` goes to expert ``expert_P[p]``. The first B pairs are each
        image with its own expert, in order.
    """
    images = [torch.arange(len(cluster_B))]
    experts = [cluster_B]
    for expert, size in enumerate(torch.bincount(cluster_B).tolist()):
        if size == 0:
            continue
        foreign = torch.nonzero(cluster_B != expert)[:, 0]
        chosen = foreign[torch.randperm(len(foreign), generator=generator)[:size]]
        images.append(chosen)
        experts.append(torch.full_like(chosen, expert))
    return torch.cat(images), torch.cat(experts)
