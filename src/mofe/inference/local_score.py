"""GL-MCM's local score: one number per image, from its patches, computed while the image goes through the backbone.

B images, T tokens, D features, P dimensions of the space shared with texts, C classes.
"""

from typing import Any

import torch
from torch import Tensor, nn

from mofe.detection.concept_matching import local_mcm
from mofe.detection.texts import Texts
from mofe.models.mofe import MoFE


def value_tokens(block: Any, tokens_BTD: Tensor) -> Tensor:
    """Run the last block of a ViT with every token attending only to itself, as in GL-MCM's official code.

    v = x + proj(W_v norm(x)), then v + mlp(norm(v)): a token keeps its location, because no other token is mixed in.
    """
    value_BTD = block.attn.qkv(block.norm1(tokens_BTD)).chunk(3, dim=-1)[2]
    tokens_BTD = tokens_BTD + block.ls1(block.attn.proj(block.attn.norm(value_BTD)))
    return tokens_BTD + block.ls2(block.mlp(block.norm2(tokens_BTD)))


class LocalScores:
    """Keeps GL-MCM's local scores of the last batch that went through a pre-trained backbone.

    A hook reads the tokens before the last block, so the score costs one more block, not a second pass.
    """

    def __init__(self, model: MoFE, texts: Texts):
        self._latest_B = torch.empty(0)
        self._norm: nn.Module = model.norm
        self._special = model.trunk.num_prefix_tokens
        self._texts = texts
        expert = model.experts[0]
        self._block = expert[-1]
        before = expert[-2] if len(expert) > 1 else model.trunk.norm
        before.register_forward_hook(self._look)

    def latest(self) -> Tensor:
        """The scores of the last batch: float64 (B,), on the model's device."""
        return self._latest_B

    def _look(self, _: nn.Module, inputs: tuple[Tensor, ...], tokens_BTD: Tensor) -> None:
        patch_BTD = self._norm(value_tokens(self._block, tokens_BTD)[:, self._special :])
        with torch.autocast(patch_BTD.device.type, enabled=False):  # cosines in float32
            patch_BTP = patch_BTD.float() @ self._texts.projection_DP.to(patch_BTD.device)
            self._latest_B = local_mcm(patch_BTP, self._texts.class_CP)
