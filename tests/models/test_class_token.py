"""The class token of a block by the short way, against timm's whole block in float64."""

from typing import Any

import pytest
import torch
from timm.layers import DropPath
from timm.models.vision_transformer import Block, ParallelScalingBlock
from torch import Tensor, nn

from mofe.models.class_token import _is_known, class_token_after

KINDS: list[dict[str, Any]] = [
    {},
    {"qkv_bias": True, "init_values": 0.1},
    {"qk_norm": True, "scale_attn_norm": True, "scale_mlp_norm": True},
    {"proj_bias": False},
]


def blocks_of(depth: int, kind: type[nn.Module] = Block, **args: Any) -> nn.Sequential:
    torch.manual_seed(0)
    blocks = nn.Sequential(*(kind(24, 3, **args) for _ in range(depth))).double()
    for parameter in blocks.parameters():
        nn.init.normal_(parameter, std=0.3)
    return blocks


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("args", KINDS)
def test_it_is_that_of_the_whole_block_and_so_is_its_gradient(depth: int, args: dict[str, Any]) -> None:
    blocks = blocks_of(depth, **args)
    tokens = torch.randn(5, 7, 24, dtype=torch.float64)

    def answer(of: Tensor) -> list[Tensor]:
        found = torch.autograd.grad(of.square().sum(), [*blocks.parameters()])
        return [of, *found]

    for ours, whole in zip(answer(class_token_after(blocks, tokens)), answer(blocks(tokens)[:, 0]), strict=True):
        torch.testing.assert_close(ours, whole, atol=1e-10, rtol=1e-9)


def test_images_are_left_out_as_stochastic_depth_leaves_them_out() -> None:
    blocks = blocks_of(1, drop_path=0.5)
    assert isinstance(blocks[0].drop_path1, DropPath)
    tokens = torch.randn(40, 7, 24, dtype=torch.float64)
    torch.manual_seed(3)
    ours = class_token_after(blocks, tokens)
    torch.manual_seed(3)
    torch.testing.assert_close(ours, blocks(tokens)[:, 0])
    assert (ours == tokens[:, 0]).all(dim=1).any()


@pytest.mark.parametrize("rates", [{"attn_drop": 0.5}, {"proj_drop": 0.5}])
def test_dropout_is_drawn_in_training_and_not_afterwards(rates: dict[str, float]) -> None:
    blocks = blocks_of(1, **rates)
    tokens = torch.randn(5, 7, 24, dtype=torch.float64)
    assert not torch.equal(class_token_after(blocks, tokens), class_token_after(blocks, tokens))
    blocks.eval()
    torch.testing.assert_close(class_token_after(blocks, tokens), blocks(tokens)[:, 0])


def test_the_short_way_is_taken() -> None:
    blocks, widths = blocks_of(1), []
    blocks[0].mlp.register_forward_hook(lambda _, inputs, __: widths.append(inputs[0].shape[1]))
    class_token_after(blocks, torch.randn(2, 7, 24, dtype=torch.float64))
    assert widths == [1]


def test_blocks_of_other_kinds_are_run_whole() -> None:
    blocks = blocks_of(2, ParallelScalingBlock)
    assert not _is_known(blocks[1])
    tokens = torch.randn(5, 7, 24, dtype=torch.float64)
    torch.testing.assert_close(class_token_after(blocks, tokens), blocks(tokens)[:, 0])
    gated = blocks_of(1)
    gated[0].attn.gate = nn.Linear(24, 24)
    assert not _is_known(gated[0])
