"""The class token after the blocks of an expert, without the patches that nobody asks for any more.

The last block of a vision transformer is asked for its class token alone. Keys and values need every token; query,
projection and MLP need that one: 2 D² products a token in place of 12 D², so a sixth of the block's work.

Axes: B images, T tokens, D features, H heads, d features of a head.
"""

from collections.abc import Iterable

from timm.layers import Attention
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn.functional import linear, scaled_dot_product_attention


def class_token_after(blocks: Iterable[nn.Module], tokens_BTD: Tensor) -> Tensor:
    """The class token (B, D) of the last block's output, up to rounding, in less time than the whole output takes."""
    *first, last = blocks
    for block in first:
        tokens_BTD = block(tokens_BTD)
    return _class_token(last, tokens_BTD) if _is_known(last) else last(tokens_BTD)[:, 0]


def _is_known(block: nn.Module) -> bool:
    """Whether :func:`_class_token` does what the block does: timm has others, and gates for their attention."""
    return type(block) is Block and type(block.attn) is Attention and getattr(block.attn, "gate", None) is None


def _class_token(block: Block, tokens_BTD: Tensor) -> Tensor:
    """timm's ``Block.forward`` with the class token as the only query."""
    class_B1D = tokens_BTD[:, :1]
    class_B1D = class_B1D + block.drop_path1(block.ls1(_attention(block.attn, block.norm1(tokens_BTD))))
    class_B1D = class_B1D + block.drop_path2(block.ls2(block.mlp(block.norm2(class_B1D))))
    return class_B1D[:, 0]


def _attention(attention: Attention, x_BTD: Tensor) -> Tensor:
    """What the class token sees, (B, 1, D)."""
    width = attention.qkv.out_features // 3
    weights, biases = attention.qkv.weight, attention.qkv.bias
    query_B1D = linear(x_BTD[:, :1], weights[:width], None if biases is None else biases[:width])
    both_BTD = linear(x_BTD, weights[width:], None if biases is None else biases[width:])
    query_BH1d, key_BHTd, value_BHTd = (
        t.unflatten(2, (attention.num_heads, -1)).transpose(1, 2) for t in (query_B1D, *both_BTD.chunk(2, dim=2))
    )
    seen_BH1d = scaled_dot_product_attention(
        attention.q_norm(query_BH1d),
        attention.k_norm(key_BHTd),
        value_BHTd,
        dropout_p=attention.attn_drop.p if attention.training else 0.0,
    )
    seen_B1D = attention.norm(seen_BH1d.transpose(1, 2).flatten(2))
    return attention.proj_drop(attention.proj(seen_B1D))
