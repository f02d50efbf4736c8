"""The linear probe: trains the router and the heads while the rest of the model is frozen.

At that time the experts are exact copies. So the inputs of the router and of every head are the features that extract
stored. The probe reads these features, so an epoch over ImageNet takes seconds, not hours.
"""

import numpy as np
import torch
from torch import Tensor

from mofe.artifacts.recipe import Recipe
from mofe.errors import MofeError
from mofe.models.mofe import MoFE
from mofe.progress import progress
from mofe.training.losses import pairs_with_negatives
from mofe.training.mixup import Mixed
from mofe.training.optimiser import probe_groups
from mofe.training.step import Pairs, losses_of


def linear_probe(
    model: MoFE, trunk_ND: Tensor, embedding_ND: Tensor, labels_N: Tensor, rows_M: Tensor, recipe: Recipe
) -> None:
    """Train the router on z⁰ and the heads on F⁰, in place; all other parameters stay unchanged.

    Args:
        model: an untrained MoFE, on any device.
        trunk_ND: class embeddings z⁰ that enter the MoFE layer, on the CPU; each batch is converted to float32.
        embedding_ND: final class embeddings F⁰.
        labels_N: class of each image.
        rows_M: rows of the training images among the N.
        recipe: parameters of training; the probe uses ``probe_epochs``, ``probe_learning_rate``,
            ``micro_batch_size``, ``weight_decay``, ``regulariser``, ``negative_weight`` and ``seed``.

    Raises:
        MofeError: the loss is not finite.
    """
    device = model.router.weight.device
    generator = torch.Generator().manual_seed(recipe.seed)
    groups = probe_groups(model, recipe.weight_decay)
    optimiser = torch.optim.AdamW(groups, lr=recipe.probe_learning_rate, betas=(0.9, 0.95))
    size = min(recipe.micro_batch_size, len(rows_M))
    steps = recipe.probe_epochs * (len(rows_M) // size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(1, steps))
    with progress(label="linear probe", total=steps, unit="step") as bar:
        for _ in range(recipe.probe_epochs):
            order_M = rows_M[torch.randperm(len(rows_M), generator=generator)]
            for rows_B in order_M[: len(order_M) // size * size].split(size):
                labels_B = labels_N[rows_B].to(device)
                z_BD, f_BD = (of_ND[rows_B].to(device).float() for of_ND in (trunk_ND, embedding_ND))
                pairs = pairs_with_negatives(model.expert_of_class_C[labels_B].cpu(), generator)
                image_P, expert_P = (t.to(device) for t in pairs)
                batch = Mixed(z_BD, labels_B, labels_B, torch.ones(len(rows_B), device=device))
                losses = losses_of(
                    model,
                    model.router_outputs(z_BD),
                    Pairs(f_BD[image_P], image_P, expert_P),
                    batch,
                    regulariser=recipe.regulariser,  # the norm of these embeddings is a constant
                    weight=recipe.regulariser_weight,
                    negative_weight=recipe.negative_weight,
                )
                if not losses.total.isfinite():
                    raise MofeError(
                        f"the loss of the linear probe is not finite (route {losses.route:g}, expert "
                        f"{losses.expert:g}): try a lower probe_learning_rate"
                    )
                optimiser.zero_grad(set_to_none=True)
                losses.total.backward()
                optimiser.step()
                schedule.step()
                bar.update()


@torch.inference_mode()
def predict_from_features(
    model: MoFE, trunk_ND: Tensor, embedding_ND: Tensor, rows_M: Tensor
) -> tuple[np.ndarray, np.ndarray]:
    """Predict class and expert (M,) of the images ``rows_M`` from stored features, by a model before fine-tuning."""
    predicted, routed = [], []
    device = model.router.weight.device
    for rows_B in rows_M.split(4096):
        z_BD, f_BD = (of_ND[rows_B].to(device).float() for of_ND in (trunk_ND, embedding_ND))
        expert_B = model.route(z_BD).argmax(dim=1)
        logits_BK = model.classify(f_BD, expert_B)
        predicted.append(logits_BK[:, :-1].argmax(dim=1).cpu().numpy())
        routed.append(expert_B.cpu().numpy())
    return np.concatenate(predicted), np.concatenate(routed)
