"""Parameter groups with layer-wise learning rates for AdamW, and the cosine schedule (Appendix A.1 of the paper)."""

import math
from typing import Any

import torch
from timm.optim import param_groups_layer_decay, param_groups_weight_decay

from mofe.models.mofe import MoFE


def parameter_groups(model: MoFE, weight_decay: float, layer_decay: float) -> list[dict[str, Any]]:
    """Every trainable parameter in exactly one group, with ``lr_scale`` = layer_decay^(layers above it).

    timm groups the parameters by :meth:`MoFE.group_matcher`. Vectors (biases, norms, LayerScale) and the parameters in
    the backbone's ``no_weight_decay`` are not decayed.
    """
    return param_groups_layer_decay(model, weight_decay, model.no_weight_decay(), layer_decay=layer_decay)


def probe_groups(model: MoFE, weight_decay: float) -> list[dict[str, Any]]:
    """The parameters of the router and the heads; their biases are not decayed."""
    return [group for part in (model.router, model.heads) for group in param_groups_weight_decay(part, weight_decay)]


def learning_rate(step: int, total_steps: int, warmup_steps: int, peak: float, least: float) -> float:
    """Learning rate of a step: linear warm-up from 0 to ``peak``, then half a cosine to ``least`` at the last step."""
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, total_steps - 1 - warmup_steps)
    return least + (peak - least) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def set_learning_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of every group to ``rate`` times its ``lr_scale``."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group["lr_scale"]


def layer_rates(model: MoFE, optimiser: torch.optim.Optimizer) -> dict[str, float]:
    """Current learning rate of each layer, from the input up; one entry if no layer's rate is scaled."""
    rate_of = {group["lr_scale"]: group["lr"] for group in optimiser.param_groups}
    rates = [rate_of[scale] for scale in sorted(rate_of)]
    if len(rates) == 1:
        return {"all layers": rates[0]}
    shared = len(model.trunk.blocks)
    blocks = [f"block {i + 1}{' of each expert' if i >= shared else ''}" for i in range(shared + model.depth)]
    return dict(zip(["stem", *blocks, "router and heads"], rates, strict=True))
