"""GL-MCM's local score as timm's transformer gives it, against the official code's steps on open_clip's own weights."""

from pathlib import Path

import open_clip
import pytest
import torch
from tiny_clip import BACKBONE, write_tiny_clip
from torch import Tensor
from torch.nn.functional import linear, normalize

from mofe.detection.texts import Texts
from mofe.inference.embedding import create_pretrained
from mofe.inference.local_score import LocalScores
from mofe.models.backbone import describe_backbone


def official_tokens(model: open_clip.CLIP, images: Tensor) -> Tensor:
    """Tokens of length one in the shared space: the last block without attention between them, norm, projection."""
    visual = model.visual
    x = visual._embeds(images)
    for block in visual.transformer.resblocks[:-1]:
        x = block(x)
    last = visual.transformer.resblocks[-1]
    qkv = linear(last.ln_1(x), last.attn.in_proj_weight, last.attn.in_proj_bias)
    v = linear(qkv[..., 2 * x.shape[-1] :], last.attn.out_proj.weight, last.attn.out_proj.bias)
    v = v + x
    v = v + last.mlp(last.ln_2(v))
    return normalize(visual.ln_post(v) @ visual.proj, dim=-1)


def official(model: open_clip.CLIP, images: Tensor, text_CP: Tensor) -> Tensor:
    """The class token left out; softmax over classes of bare cosines."""
    return (official_tokens(model, images)[:, 1:] @ text_CP.T).softmax(dim=-1).amax(dim=(1, 2))


@pytest.mark.parametrize("depth", [1, 2])
@torch.inference_mode()
def test_it_is_the_official_one(depth: int, tmp_path: Path) -> None:
    weights = write_tiny_clip(tmp_path / "clip")
    clip = open_clip.create_model(f"local-dir:{tmp_path}/clip", device="cpu").eval()
    spec = describe_backbone(BACKBONE["backbone"], BACKBONE["backbone_args"], str(weights), depth=depth)
    backbone = create_pretrained(spec, ("a", "b", "c", "d")).eval()
    images = torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    text_CP = official_tokens(clip, images)[:4, 0]  # a class token would be nearest, if it took part
    local = LocalScores(backbone, Texts(clip.visual.proj, 100.0, text_CP))
    assert local.latest().shape == (0,), "no batch went through"
    for batch in (images, images[:3]):
        embedded = backbone(batch).embedding_BD
        torch.testing.assert_close(embedded @ clip.visual.proj, clip.encode_image(batch), rtol=0, atol=1e-5)
        torch.testing.assert_close(local.latest().float(), official(clip, batch, text_CP), rtol=0, atol=1e-6)
    assert local.latest().std() > 1e-4
