"""Layer decay and schedule against their closed forms."""

import math
from itertools import pairwise

import pytest
import torch
from helpers import make_partition
from timm.models.vision_transformer import VisionTransformer

from mofe.models import MoFE
from mofe.training.optimiser import learning_rate, parameter_groups, set_learning_rate


@pytest.mark.parametrize("depth", [1, 2])
def test_every_parameter_is_in_exactly_one_group_with_its_layers_rate(backbone: VisionTransformer, depth: int) -> None:
    model = MoFE(backbone, make_partition([0, 1, 1]), depth)
    groups = parameter_groups(model, 0.05, 0.75)
    optimiser = torch.optim.AdamW(groups, lr=1.0)
    set_learning_rate(optimiser, 0.01)
    rate_of = {id(p): (g["lr"], g["weight_decay"]) for g in optimiser.param_groups for p in g["params"]}
    assert sum(len(g["params"]) for g in optimiser.param_groups) == len(rate_of) == len(list(model.parameters()))
    for name, parameter in model.named_parameters():
        rate, decay = rate_of[id(parameter)]
        if name.startswith(("router", "heads", "norm")):
            below = 0
        elif name.startswith("experts"):
            below = depth - int(name.split(".")[2])
        elif name.startswith("trunk.blocks"):
            below = 3 - int(name.split(".")[2])  # the backbone has three blocks
        else:
            below = 4
        assert rate == pytest.approx(0.01 * 0.75**below), name
        assert decay == (0.05 if parameter.ndim > 1 and "token" not in name and "pos_embed" not in name else 0), name


def test_learning_rate_warms_up_then_follows_half_a_cosine() -> None:
    rates = [learning_rate(s, 100, 10, 1.0, 0.01) for s in range(100)]
    assert rates[:10] == pytest.approx([(s + 1) / 10 for s in range(10)])
    assert rates[10] == 1.0
    assert rates[-1] == pytest.approx(0.01)
    middle = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (50 - 10) / 89))
    assert rates[50] == pytest.approx(middle)
    assert all(a >= b for a, b in pairwise(rates[10:]))
