"""GL-MCM's local score as timm's transformer gives it, against the official code's steps on open_clip's own weights."""

from pathlib import Path

import open_clip
import pytest
import torch
from tiny_clip import BACKBONE, write_tiny_clip
from torch import Tensor
from torch.nn.functional import linear

from mofe.detection.embedding import untouched
from mofe.detection.local_score import LocalScores
from mofe.detection.texts import Texts
from mofe.models.backbone import describe_backbone


def official(model: open_clip.CLIP, images: Tensor, text_CP: Tensor) -> Tensor:
    """The last block without attention between tokens; class token left out; softmax over classes of bare cosines."""
    visual = model.visual
    x = visual._embeds(images)
    for block in visual.transformer.resblocks[:-1]:
        x = block(x)
    last = visual.transformer.resblocks[-1]
    qkv = linear(last.ln_1(x), last.attn.in_proj_weight, last.attn.in_proj_bias)
    v = linear(qkv[..., 2 * x.shape[-1] :], last.attn.out_proj.weight, last.attn.out_proj.bias)
    v = v + x
    v = v + last.mlp(last.ln_2(v))
    patches = (visual.ln_post(v) @ visual.proj)[:, 1:]
    cosines = patches / patches.norm(dim=-1, keepdim=True) @ text_CP.T
    return cosines.softmax(dim=-1).amax(dim=(1, 2))


@pytest.mark.parametrize("depth", [1, 2])
@torch.inference_mode()
def test_it_is_the_official_one(depth: int, tmp_path: Path) -> None:
    weights = write_tiny_clip(tmp_path / "clip")
    clip = open_clip.create_model(f"local-dir:{tmp_path}/clip", device="cpu").eval()
    spec = describe_backbone(BACKBONE["backbone"], BACKBONE["backbone_args"], str(weights), depth=depth)
    backbone = untouched(spec, ("a", "b", "c", "d")).eval()
    text_CP = torch.nn.functional.normalize(torch.randn(4, 20, generator=torch.Generator().manual_seed(0)), dim=1)
    local = LocalScores(backbone, Texts(clip.visual.proj, 100.0, text_CP))
    for batch in (5, 3):
        images = torch.randn(batch, 3, 16, 16)
        embedded = backbone(images).embedding_BD
        torch.testing.assert_close(embedded @ clip.visual.proj, clip.encode_image(images), rtol=0, atol=1e-5)
        torch.testing.assert_close(local.latest_B, official(clip, images, text_CP), rtol=0, atol=1e-6)
    assert local.latest_B.std() > 1e-4
