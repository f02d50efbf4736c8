"""What the patches of an image show, for GL-MCM: one number an image, kept while the untouched backbone looks at it.

B images, T tokens, D features, P dimensions of the space shared with texts, C classes.
"""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from mofe.detection.concept_matching import local_mcm
from mofe.detection.embedding import EmbeddedBatch
from mofe.detection.texts import Texts
from mofe.models.mofe import MoFE


def value_tokens(block: Any, tokens_BTD: Tensor, normed_BTD: Tensor) -> Tensor:
    """The last block of a ViT with every token attending to itself alone, as GL-MCM's official code has it.

    v = x + proj(W_v norm(x)), then v + mlp(norm(v)): a patch keeps its place, since no other is mixed in.
    """
    value_BTD = block.attn.qkv(normed_BTD).chunk(3, dim=-1)[2]
    tokens_BTD = tokens_BTD + block.ls1(block.attn.proj(block.attn.norm(value_BTD)))
    return tokens_BTD + block.ls2(block.mlp(block.norm2(tokens_BTD)))


class LocalScores:
    """GL-MCM's local score of the batch that last went through an untouched backbone.

    It looks at the tokens as the last block norms them, so patches cost one block more and no second pass.
    """

    def __init__(self, model: MoFE, texts: Texts):
        self.latest_B = torch.empty(0)
        """Float64 (B,), on the CPU."""
        self._norm: nn.Module = model.norm
        self._special = model.trunk.num_prefix_tokens
        self._texts = texts
        self._block: Any = model.experts[0][-1]  # type: ignore[index]
        self._block.norm1.register_forward_hook(self._look)

    def _look(self, norm: nn.Module, inputs: tuple[Tensor, ...], normed_BTD: Tensor) -> None:
        patch_BTD = self._norm(value_tokens(self._block, inputs[0], normed_BTD)[:, self._special :])
        with torch.autocast(patch_BTD.device.type, enabled=False):  # cosines in float32
            patch_BTP = patch_BTD.float() @ self._texts.projection_DP.to(patch_BTD.device)
            self.latest_B = local_mcm(patch_BTP, self._texts.class_CP).cpu()


def together(
    seen: Iterator[EmbeddedBatch], patches: LocalScores | None, batches: int | None = None
) -> Iterator[tuple[EmbeddedBatch, Tensor]]:
    """The images of so many batches at once, or of all, and what their patches showed if somebody looked."""
    looked_at = ((batch, patches.latest_B if patches else torch.empty(0)) for batch in seen)
    while some := list(islice(looked_at, batches)):
        parts, local = zip(*some, strict=True)
        yield EmbeddedBatch.joined(parts), torch.cat(local)
