"""The class token of the experts' last blocks by the short way, against timm's whole blocks in float64."""

from functools import partial
from typing import Any

import pytest
import torch
from timm.layers import Attention, DropPath, GluMlp
from timm.models.vision_transformer import Block, ParallelScalingBlock
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.flop_counter import FlopCounterMode

from mofe.models import class_token as module
from mofe.models.class_token import class_token_after, is_known
from mofe.models.groups import Groups

KINDS: list[dict[str, Any]] = [
    {},
    {"qkv_bias": True, "init_values": 0.1},
    {"scale_attn_norm": True, "scale_mlp_norm": True},
    {"proj_bias": False},
]
IMAGE_P, EXPERT_P = torch.tensor([0, 1, 2, 3, 4, 4, 2, 0]), torch.tensor([2, 0, 0, 2, 2, 0, 2, 0])  # none for expert 1


def blocks_of(experts: int, **args: Any) -> list[Block]:
    torch.manual_seed(0)
    blocks = [Block(24, 3, **args).double() for _ in range(experts)]
    for parameter in nn.ModuleList(blocks).parameters():
        nn.init.normal_(parameter, std=0.3)
    return blocks


def by_the_short_way(
    blocks: list[Block], tokens: Tensor, image_P: Tensor = IMAGE_P, expert_P: Tensor = EXPERT_P
) -> Tensor:
    groups = Groups.of(expert_P, len(blocks), tokens.device)
    return class_token_after(blocks, tokens, groups, image_P[groups.order_P])[groups.order_P.argsort()]


def of_one(block: Block, tokens: Tensor) -> Tensor:
    return by_the_short_way([block], tokens, torch.arange(len(tokens)), torch.zeros(len(tokens), dtype=torch.int64))


@pytest.mark.parametrize("args", KINDS)
def test_it_is_that_of_the_whole_block_and_so_are_its_gradients(args: dict[str, Any]) -> None:
    blocks = blocks_of(3, **args)
    assert all(map(is_known, blocks))
    tokens = torch.randn(5, 7, 24, dtype=torch.float64, requires_grad=True)

    def answer(of: Tensor) -> list[Tensor]:
        wanted = [tokens, *nn.ModuleList(blocks).parameters()]
        found = torch.autograd.grad(of.square().sum(), wanted, allow_unused=True)
        return [of, *(torch.zeros_like(w) if g is None else g for g, w in zip(found, wanted, strict=True))]

    whole = torch.stack([blocks[e](tokens[i : i + 1])[0, 0] for i, e in zip(IMAGE_P, EXPERT_P, strict=True)])
    for ours, theirs in zip(answer(by_the_short_way(blocks, tokens)), answer(whole), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=1e-9)


@pytest.mark.parametrize("args", KINDS)
def test_it_is_the_same_where_the_host_does_not_know_the_groups(args: dict[str, Any]) -> None:
    """Up to the rounding of bfloat16, in which one kernel multiplies all groups."""
    blocks = [block.float() for block in blocks_of(3, **args)]
    tokens = torch.randn(5, 7, 24)
    groups = Groups.of(EXPERT_P, 3, tokens.device, sized=False)
    found = class_token_after(blocks, tokens, groups, IMAGE_P[groups.order_P])[groups.order_P.argsort()]
    exact = by_the_short_way(blocks, tokens)
    assert (found - exact).norm() < 0.05 * (exact - tokens[IMAGE_P, 0]).norm()


def test_attention_runs_in_the_precision_of_matrix_products(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = [block.float() for block in blocks_of(3)]
    seen: list[list[torch.dtype]] = []

    def attention(*tensors: Tensor, **options: Any) -> Tensor:
        seen.append([tensor.dtype for tensor in tensors])
        return scaled_dot_product_attention(*tensors, **options)

    monkeypatch.setattr(module, "scaled_dot_product_attention", attention)
    for precision in (torch.float32, torch.bfloat16):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == torch.bfloat16):
            by_the_short_way(blocks, torch.randn(5, 7, 24))
        assert seen.pop() == [precision] * 3


def test_it_is_as_exact_as_the_whole_block_where_tokens_are_large_and_far_from_zero() -> None:
    blocks = blocks_of(1, qkv_bias=True)
    for parameter in (blocks[0].norm1.weight, blocks[0].norm1.bias):
        nn.init.normal_(parameter, mean=3.0)
    tokens = 1000 + 50 * torch.randn(5, 7, 24, dtype=torch.float64)
    exact = blocks[0](tokens)[:, 0]
    single = blocks[0].float()
    theirs, ours = (found.double() for found in (single(tokens.float())[:, 0], of_one(single, tokens.float())))
    assert (ours - exact).norm() <= 2 * (theirs - exact).norm() + 1e-7 * exact.norm()


def test_images_are_left_out_as_stochastic_depth_leaves_them_out() -> None:
    (block,) = blocks_of(1, drop_path=0.5)
    assert isinstance(block.drop_path1, DropPath)
    tokens = torch.randn(40, 7, 24, dtype=torch.float64)
    torch.manual_seed(3)
    ours = of_one(block, tokens)
    torch.manual_seed(3)
    torch.testing.assert_close(ours, block(tokens)[:, 0])
    assert (ours == tokens[:, 0]).all(dim=1).any()


def test_dropout_is_drawn_in_training_and_not_afterwards() -> None:
    (block,) = blocks_of(1, proj_drop=0.5)
    tokens = torch.randn(5, 7, 24, dtype=torch.float64)
    assert not torch.equal(of_one(block, tokens), of_one(block, tokens))
    block.eval()
    torch.testing.assert_close(of_one(block, tokens), block(tokens)[:, 0])


def test_no_patch_meets_a_matrix_of_weights() -> None:
    (block,), tokens = blocks_of(1), torch.randn(2, 50, 24, dtype=torch.float64)
    with FlopCounterMode(display=False) as ours:
        of_one(block, tokens)
    with FlopCounterMode(display=False) as whole:
        block(tokens)
    assert ours.get_total_flops() <= 2 * (20 + 4 * 3) * 24**2 + 2 * 4 * 50 * 3 * 24
    assert whole.get_total_flops() > 10 * ours.get_total_flops()


@pytest.mark.parametrize(
    "args",
    [
        {"qk_norm": True},
        {"attn_drop": 0.5},
        {"norm_layer": nn.RMSNorm},
        {"norm_layer": partial(nn.LayerNorm, bias=False)},
        {"norm_layer": partial(nn.LayerNorm, elementwise_affine=False)},
    ],
)
def test_blocks_that_do_something_else_are_not_known(args: dict[str, Any]) -> None:
    assert not is_known(blocks_of(1, **args)[0])


def test_blocks_of_other_kinds_are_not_known() -> None:
    assert not is_known(ParallelScalingBlock(24, 3))
    (gated,) = blocks_of(1)
    gated.attn.gate = nn.Linear(24, 24)
    assert not is_known(gated)
    for part, other in (("attn", type("Attention", (Attention,), {})(24, 3)), ("mlp", GluMlp(24, 96))):
        (block,) = blocks_of(1)
        setattr(block, part, other)
        assert not is_known(block), f"its {part} may do anything"
