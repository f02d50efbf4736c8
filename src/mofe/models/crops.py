"""Crop of published weights' evaluation, where timm's data config has another than their authors.

CLIP (OpenAI's code and open_clip) resizes the shorter side to the image size and crops the square in the middle, of
which nothing is cut off; timm gives 0.9 for many. DINOv2 resizes to 256 and crops 224; timm gives 1.0. Weights that
were fine-tuned after CLIP (tags such as ``openai_ft_in1k``) keep timm's, because they were trained by timm.
"""

from collections.abc import Mapping
from typing import Any

CLIP = 1.0
DINOV2 = 224 / 256


def crop_fraction(name: str, args: Mapping[str, Any], timms: Mapping[str, Any]) -> float:
    """Side of the crop relative to the shorter side of the image.

    Args:
        name: name of the model.
        args: arguments of ``timm.create_model``; a ``crop_pct`` in ``pretrained_cfg_overlay`` is taken as it is.
        timms: timm's data config of the model, for all other models.
    """
    architecture, _, tag = name.rpartition("/")[2].partition(".")
    if "crop_pct" not in (args.get("pretrained_cfg_overlay") or {}):
        if "_clip_" in architecture and "_ft_" not in tag:
            return CLIP
        if "_dinov2" in architecture:
            return DINOV2
    return float(timms["crop_pct"])
