"""A CLIP of a few thousand numbers in a folder, as open_clip writes one; its image half is also a backbone of timm."""

import json
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import save_file

CONFIG = {
    "embed_dim": 20,
    "vision_cfg": {"image_size": 16, "patch_size": 8, "layers": 3, "width": 24, "head_width": 12},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
}
BACKBONE: dict[str, Any] = {
    "backbone": "vit_base_patch16_clip_224",
    "backbone_args": {"img_size": 16, "patch_size": 8, "depth": 3, "embed_dim": 24, "num_heads": 2},
}
"""Parameters of a run that has its image half for a backbone; ``weights`` are the same file."""


def write_tiny_clip(folder: Path, seed: int = 0) -> Path:
    """Write open_clip_config.json and open_clip_model.safetensors; the weights' path."""
    torch.manual_seed(seed)
    model = open_clip.CLIP(**CONFIG)  # type: ignore[arg-type]
    with torch.no_grad():
        for name, weight in model.visual.named_parameters():  # so that images differ, and no bias is nothing
            weight.mul_(3) if weight.ndim > 1 and "ln" not in name else weight.add_(0.1 * torch.randn_like(weight))
    folder.mkdir(parents=True)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": CONFIG, "preprocess_cfg": {}}))
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return folder / "open_clip_model.safetensors"
