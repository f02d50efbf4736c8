"""Rates and decay against timm's own grouping of the backbone; the schedule against its closed form."""

import math
import re
from itertools import pairwise

import pytest
import timm
import torch
from helpers import make_partition
from timm.models.vision_transformer import VisionTransformer
from timm.optim import param_groups_layer_decay
from torch import nn

from mofe.models import MoFE
from mofe.training.optimiser import layer_rates, learning_rate, parameter_groups, probe_groups, set_learning_rate

SMALL = {"embed_dim": 24, "num_heads": 2, "img_size": 28, "num_classes": 3}
BACKBONES = {
    "12 blocks": ("vit_base_patch14_dinov2", {}),
    "24 blocks": ("vit_large_patch14_dinov2", {}),
    "registers": ("vit_base_patch14_reg4_dinov2", {}),
    "CLIP's norm before the blocks": ("vit_base_patch16_clip_224", {"img_size": 32}),
    "distillation token": ("deit_base_distilled_patch16_224", {"img_size": 32}),
    "convolutional stem": ("vit_tiny_r_s16_p8_224", {"img_size": 64, "patch_size": 2}),
}
Settings = tuple[float, float]


def settings_of(model: nn.Module, groups: list[dict[str, object]]) -> dict[str, Settings]:
    """Scale of the rate, and decay, of every parameter by name; each is in exactly one group."""
    by_id: dict[int, Settings] = {}
    for group in groups:
        for parameter in group["params"]:  # type: ignore[attr-defined]
            assert id(parameter) not in by_id
            by_id[id(parameter)] = (group["lr_scale"], group["weight_decay"])  # type: ignore[assignment]
    return {name: by_id[id(parameter)] for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("kind", BACKBONES)
def test_rates_and_decay_are_those_that_timm_gives_the_backbone(kind: str, depth: int) -> None:
    name, args = BACKBONES[kind]
    backbone = timm.create_model(name, **{**SMALL, **args})
    wanted = settings_of(
        backbone, param_groups_layer_decay(backbone, 0.05, backbone.no_weight_decay(), layer_decay=0.75)
    )
    blocks = len(backbone.blocks)
    model = MoFE(backbone, make_partition([0, 1, 2]), depth)
    found = settings_of(model, parameter_groups(model, 0.05, 0.75))
    head = {"weight": wanted["head.weight"], "bias": wanted["head.bias"]}
    seen = set()
    for parameter, settings in found.items():
        copied = re.match(r"experts\.\d+\.(\d+)\.(.*)", parameter)
        if parameter.startswith(("router.", "heads.")):
            assert settings == pytest.approx(head[parameter.rpartition(".")[2]]), parameter
            continue
        original = (
            f"blocks.{blocks - depth + int(copied[1])}.{copied[2]}" if copied else parameter.removeprefix("trunk.")
        )
        assert settings == pytest.approx(wanted[original]), parameter
        seen.add(original)
    assert seen == {original for original in wanted if not original.startswith("head")}


@pytest.mark.parametrize(("num_blocks", "depth"), [(2, 1), (3, 1), (3, 2), (12, 1), (12, 2), (24, 1), (24, 2)])
def test_nothing_learns_faster_than_the_peak(num_blocks: int, depth: int) -> None:
    backbone = timm.create_model("vit_base_patch14_dinov2", **{**SMALL, "depth": num_blocks})
    model = MoFE(backbone, make_partition([0, 1, 1]), depth)
    optimiser = torch.optim.AdamW(parameter_groups(model, 0.05, 0.75), lr=1.0)
    set_learning_rate(optimiser, 0.01)
    rates = {name: rate for name, (rate, _) in settings_of(model, [
        {**group, "lr_scale": group["lr"]} for group in optimiser.param_groups
    ]).items()}  # fmt: skip
    assert max(rates.values()) == rates["router.weight"] == 0.01
    for expert in range(2):
        own = {rate for name, rate in rates.items() if name.startswith(f"experts.{expert}.{depth - 1}.")}
        assert max(own) == min(own) == pytest.approx(0.0075)
    assert min(rates.values()) == pytest.approx(0.01 * 0.75 ** (num_blocks + 1)) == rates["trunk.pos_embed"]


def test_layers_are_told_by_name(backbone: VisionTransformer) -> None:
    model = MoFE(backbone, make_partition([0, 1, 1]), 2)
    optimiser = torch.optim.AdamW(parameter_groups(model, 0.05, 0.5), lr=1.0)
    set_learning_rate(optimiser, 0.08)
    assert layer_rates(model, optimiser) == pytest.approx({
        "stem": 0.005, "block 1": 0.01, "block 2 of each expert": 0.02, "block 3 of each expert": 0.04,
        "router and heads": 0.08,
    })  # fmt: skip
    set_learning_rate(optimiser, 0.0)  # where a cosine may end
    assert layer_rates(model, optimiser) == dict.fromkeys(
        ("stem", "block 1", "block 2 of each expert", "block 3 of each expert", "router and heads"), 0.0
    )
    equal = torch.optim.AdamW(parameter_groups(model, 0.05, 1.0), lr=1.0)
    set_learning_rate(equal, 0.08)
    assert layer_rates(model, equal) == {"all layers": 0.08}


def test_the_probe_decays_matrices_alone(backbone: VisionTransformer) -> None:
    model = MoFE(backbone, make_partition([0, 1, 1]))
    groups = probe_groups(model, 0.05)
    decayed = {id(p) for g in groups if g["weight_decay"] == 0.05 for p in g["params"]}
    plain = {id(p) for g in groups if g["weight_decay"] == 0 for p in g["params"]}
    assert decayed == {id(layer.weight) for layer in (model.router, *model.heads)}
    assert plain == {id(layer.bias) for layer in (model.router, *model.heads)}


def test_learning_rate_warms_up_then_follows_half_a_cosine() -> None:
    rates = [learning_rate(s, 100, 10, 1.0, 0.01) for s in range(100)]
    assert rates[:10] == pytest.approx([(s + 1) / 10 for s in range(10)])
    assert rates[10] == 1.0
    assert rates[-1] == pytest.approx(0.01)
    middle = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (50 - 10) / 89))
    assert rates[50] == pytest.approx(middle)
    assert all(a >= b for a, b in pairwise(rates[10:]))


def test_the_schedule_is_the_one_that_torch_makes_of_the_same_words() -> None:
    """Linear warm-up over 10 steps, then a cosine that reaches the least rate in the last of 100."""
    weight = nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.SGD([weight], lr=0.5)
    warmup = torch.optim.lr_scheduler.LinearLR(optimiser, start_factor=0.1, end_factor=1.0, total_iters=9)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=89, eta_min=0.02)
    schedule = torch.optim.lr_scheduler.SequentialLR(optimiser, [warmup, cosine], milestones=[10])
    for step in range(100):
        assert learning_rate(step, 100, 10, 0.5, 0.02) == pytest.approx(optimiser.param_groups[0]["lr"]), step
        optimiser.step()
        schedule.step()


@pytest.mark.parametrize(
    ("total", "warmup", "rates"),
    [(1, 0, [0.5]), (2, 0, [0.5, 0.1]), (3, 0, [0.5, 0.3, 0.1]), (3, 1, [0.5, 0.5, 0.1]), (2, 2, [0.25, 0.5]),
     (2, 4, [0.125, 0.25])],
)  # fmt: skip
def test_short_schedules_begin_at_the_peak_and_end_at_the_least_rate(
    total: int, warmup: int, rates: list[float]
) -> None:
    assert [learning_rate(s, total, warmup, 0.5, 0.1) for s in range(total)] == pytest.approx(rates)


def test_the_rate_stays_at_its_least_after_the_last_step() -> None:
    assert [learning_rate(s, 10, 2, 0.5, 0.1) for s in (9, 10, 15, 18)] == pytest.approx([0.1] * 4)
