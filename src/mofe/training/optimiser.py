"""AdamW with layer-wise learning rates, and the cosine that they follow (Appendix A.1 of the paper)."""

import math
import re
from collections import defaultdict

import torch
from torch import nn

from mofe.models.mofe import MoFE


def depth_of(name: str, num_trunk_blocks: int, mofe_depth: int) -> int:
    """The depth of a parameter in the network: 0 the patch embedding, i + 1 block i, L + 1 what stands on top.

    A block of an expert has the depth of the block that it copies.
    """
    if match := re.match(r"trunk\.blocks\.(\d+)\.", name):
        return int(match.group(1)) + 1
    if match := re.match(r"experts\.\d+\.(\d+)\.", name):
        return num_trunk_blocks + int(match.group(1)) + 1
    if name.startswith("trunk."):
        return 0
    return num_trunk_blocks + mofe_depth + 1  # final norm, router, heads


def parameter_groups(model: MoFE, weight_decay: float, layer_decay: float) -> list[dict[str, object]]:
    """Every trainable parameter in exactly one group, with ``lr_scale`` = layer_decay^(distance from the top).

    Vectors (biases, norms, LayerScale) and the class token and position embeddings are not decayed.
    """
    blocks = len(model.trunk.blocks)
    top = blocks + model.depth + 1
    groups: dict[tuple[int, bool], list[nn.Parameter]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            undecayed = parameter.ndim <= 1 or name in ("trunk.cls_token", "trunk.reg_token", "trunk.pos_embed")
            groups[depth_of(name, blocks, model.depth), not undecayed].append(parameter)
    return [
        {"params": params, "lr_scale": layer_decay ** (top - depth), "weight_decay": weight_decay if decayed else 0.0}
        for (depth, decayed), params in sorted(groups.items(), key=lambda item: item[0])
    ]


def learning_rate(step: int, total_steps: int, warmup_steps: int, peak: float, least: float) -> float:
    """Linear warm-up from 0 to ``peak``, then half a cosine down to ``least`` at the last step."""
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, total_steps - 1 - warmup_steps)
    return least + (peak - least) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def set_learning_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Give every group ``rate`` times its ``lr_scale``."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group["lr_scale"]
