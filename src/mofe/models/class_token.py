"""The class token after the last block of each image's expert, computed without the block's other tokens.

Only the class token of the last block is used, so attention has one query. Without the norm's scale and shift, the
normalised tokens x̂_t are the same for all experts. So the weights of keys and values can be applied to the one query
and the one weighted sum in place of every token:

    q_h · k_t = q_h · W_k (γ x̂_t + β) + … = (γ W_kᵀ q_h) · x̂_t + a term that is the same for all t
    Σ_t a_t v_t = W_v (γ Σ_t a_t x̂_t + β) + b_v

So the block costs (20 + 4 H) D² + 4 T H D operations per image instead of 24 T D² + 4 T² D, which is negligible. (Each
of the H heads is multiplied with the whole of W_k and W_v.)

Axes: B images, P image–expert pairs sorted by expert, T tokens, D features, H heads, E experts.
"""

from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import Attention, LayerScale, Mlp
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn.functional import layer_norm, scaled_dot_product_attention

from mofe.models.groups import Groups


def is_known(block: nn.Module) -> bool:
    """Whether :func:`class_token_after` gives the block's result; timm also has other kinds of block and attention."""
    if type(block) is not Block or type(block.attn) is not Attention or type(block.mlp) is not Mlp:
        return False
    attention: Any = block.attn
    mlp: Any = block.mlp
    norms: tuple[Any, ...] = (block.norm1, block.norm2, attention.norm, mlp.norm)
    return (
        getattr(attention, "gate", None) is None
        and isinstance(attention.q_norm, nn.Identity)
        and isinstance(attention.k_norm, nn.Identity)
        and attention.attn_drop.p == 0
        and isinstance(mlp.fc1, nn.Linear)
        and isinstance(block.norm1, nn.LayerNorm)
        and all(isinstance(scale, nn.Identity | LayerScale) for scale in (block.ls1, block.ls2))
        and all(isinstance(norm, nn.Identity) or _is_affine(norm) for norm in norms)
    )


def _is_affine(norm: nn.Module) -> bool:
    return isinstance(norm, nn.LayerNorm) and norm.weight is not None and norm.bias is not None


def class_token_after(
    blocks_E: Sequence[Any], tokens_BTD: Tensor, groups: Groups, image_P: Tensor | None = None
) -> Tensor:
    """The class token (P, D) of each pair, equal to that of timm's ``Block.forward`` up to rounding.

    Args:
        blocks_E: last block of every expert, for which :func:`is_known` is True.
        tokens_BTD: tokens that enter the block.
        groups: pairs of each expert.
        image_P: image of each pair; None if there is one pair per image, in the order of the groups.
    """
    one = blocks_E[0]  # for the layers without weights
    x_BTD = layer_norm(tokens_BTD, tokens_BTD.shape[-1:], eps=one.norm1.eps).to(_precision(tokens_BTD))
    class_PD, x_PTD = (tokens_BTD[:, 0], x_BTD) if image_P is None else (tokens_BTD[image_P, 0], x_BTD[image_P])
    seen_PD = _attention(blocks_E, x_PTD, groups)
    class_PD = class_PD + one.drop_path1(_scale(groups, seen_PD, [block.ls1 for block in blocks_E]))
    normed_PD = _normalise(groups, class_PD, [block.norm2 for block in blocks_E])
    found_PD = _mlp(normed_PD, [block.mlp for block in blocks_E], groups)
    return class_PD + one.drop_path2(_scale(groups, found_PD, [block.ls2 for block in blocks_E]))


def _attention(blocks_E: Sequence[Any], x_PTD: Tensor, groups: Groups) -> Tensor:
    """Attention's output (P, D) for the class token, from tokens that are normalised, but not scaled or shifted."""
    attentions = [block.attn for block in blocks_E]
    scales_E, shifts_E = zip(*((block.norm1.weight, block.norm1.bias) for block in blocks_E), strict=True)
    query_E, key_E, value_E = zip(*(attention.qkv.weight.chunk(3) for attention in attentions), strict=True)
    query_biases_E, value_biases_E = None, None
    if attentions[0].qkv.bias is not None:
        query_biases_E, _, value_biases_E = zip(*(a.qkv.bias.chunk(3) for a in attentions), strict=True)
    heads, width = attentions[0].num_heads, attentions[0].head_dim
    feature_D, head_H = (torch.arange(n, device=x_PTD.device) for n in (heads * width, heads))
    own_HD = feature_D // width == head_H[:, None]

    class_PD = groups.affine(x_PTD[:, 0], scales_E, shifts_E)
    query_PD = groups.linear(class_PD, query_E, query_biases_E)
    query_PHD = groups.linear(query_PD[:, None] * own_HD, [weight.T for weight in key_E])
    query_PHD = groups.affine(query_PHD, scales_E).to(x_PTD.dtype)
    # the kernel gets the H heads as H queries of one head
    tokens = x_PTD[:, None]
    seen_PHD = scaled_dot_product_attention(query_PHD[:, None], tokens, tokens, scale=width**-0.5)[:, 0]
    value_PHD = groups.linear(groups.affine(seen_PHD, scales_E, shifts_E), value_E, value_biases_E)
    seen_PD = _normalise(groups, (value_PHD * own_HD).sum(dim=1), [attention.norm for attention in attentions])
    return attentions[0].proj_drop(_linear(groups, seen_PD, [attention.proj for attention in attentions]))


def _mlp(x_PD: Tensor, mlps_E: Sequence[Any], groups: Groups) -> Tensor:
    one = mlps_E[0]
    hidden = one.drop1(one.act(_linear(groups, x_PD, [mlp.fc1 for mlp in mlps_E])))
    hidden = _normalise(groups, hidden, [mlp.norm for mlp in mlps_E])
    return one.drop2(_linear(groups, hidden, [mlp.fc2 for mlp in mlps_E]))


def _linear(groups: Groups, x_PD: Tensor, layers_E: Sequence[Any]) -> Tensor:
    biases_E = None if layers_E[0].bias is None else [layer.bias for layer in layers_E]
    return groups.linear(x_PD, [layer.weight for layer in layers_E], biases_E)


def _normalise(groups: Groups, x_PD: Tensor, norms_E: Sequence[Any]) -> Tensor:
    if isinstance(norms_E[0], nn.Identity):
        return x_PD
    normed_PD = layer_norm(x_PD, norms_E[0].normalized_shape, eps=norms_E[0].eps)
    return groups.affine(normed_PD, [norm.weight for norm in norms_E], [norm.bias for norm in norms_E])


def _scale(groups: Groups, x_PD: Tensor, scales_E: Sequence[Any]) -> Tensor:
    return x_PD if isinstance(scales_E[0], nn.Identity) else groups.affine(x_PD, [scale.gamma for scale in scales_E])


def _precision(x: Tensor) -> torch.dtype:
    """The precision of matrix products on this device."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
