"""Which network looks at the images, and how they become its input."""

from typing import Any

from pydantic import BaseModel, ConfigDict


class Preprocessing(BaseModel):
    """How an image becomes the backbone's input: the backbone's own (timm's data config), nothing else decides it."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str
    crop_fraction: float


class Backbone(BaseModel):
    """Which vision transformer, from which weights, and where the MoFE layer begins in it."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    """A timm name or ``hf-hub:`` address."""
    args: dict[str, Any]
    """Further arguments of ``timm.create_model``."""
    weights: str
    """"" for timm's pre-trained weights, "random" for none, else the path or URI of a file."""
    weights_digest: str
    weights_sha256: str = ""
    """Of that file; "" if there is none."""
    depth: int
    """Number of last blocks that become experts (M)."""
    preprocessing: Preprocessing
