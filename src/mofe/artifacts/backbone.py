"""Description of the backbone: architecture, weights and preprocessing of its input."""

from typing import Any

from pydantic import BaseModel, ConfigDict


class Preprocessing(BaseModel):
    """Preprocessing of the backbone's input; it comes from the backbone alone.

    That is timm's data config, with the crop of the authors of CLIP and DINOv2 (:mod:`mofe.models.crops`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str
    crop_fraction: float


class Backbone(BaseModel):
    """A vision transformer, its weights, and the depth of the MoFE layer in it."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    """A timm name or ``hf-hub:`` address."""
    args: dict[str, Any]
    """Further arguments of ``timm.create_model``."""
    weights: str
    """Path or URI of a file, as given; "" for timm's pre-trained weights, "random" for random ones."""
    weights_place: str = ""
    """Absolute path or URI of that file, because others read it from other folders; "" if there is no file."""
    weights_digest: str
    weights_sha256: str = ""
    """SHA-256 of the file of weights; "" if there is no file."""
    depth: int
    """Number of last blocks that become experts (M)."""
    preprocessing: Preprocessing
