"""CLIP and similar models, by open_clip: the text encoder, and the projection of image embeddings into its space.

B images, T texts, D features of the image tower, P dimensions of the space that images and texts share.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mofe.artifacts.backbone import Preprocessing
from mofe.artifacts.texts import LOCAL_MODEL
from mofe.device import device
from mofe.errors import MofeError, in_one_line
from mofe.models.weights import local_weights
from mofe.progress import progress
from mofe.storage import locations

HUB = "hf-hub:"
BATCH = 256


@dataclass(frozen=True, eq=False)
class TextModel:
    """A language-image model of open_clip, in evaluation mode."""

    network: Any
    tokenize: Callable[[list[str]], Tensor]

    @property
    def projection_DP(self) -> Tensor:
        """Projection of the image tower's final class embedding, after the norm, into the shared space; float32.

        Raises:
            MofeError: the image tower is not a vision transformer with such a projection.
        """
        projection = getattr(self.network.visual, "proj", None)
        if not isinstance(projection, Tensor):
            raise MofeError(
                f"the image tower is a {type(self.network.visual).__name__} without a linear projection of a class "
                "token: choose a CLIP whose image tower is a plain vision transformer"
            )
        return projection.detach().float().cpu()

    @property
    def logit_scale(self) -> float:
        """Factor of the cosines before the softmax, 100 in OpenAI's models."""
        return float(self.network.logit_scale.detach().float().exp())

    def differs_from(self, preprocessing: Preprocessing) -> str:
        """Differences of a backbone's preprocessing from this model's own, as ``name value instead of value``."""
        own = self.network.visual.preprocess_cfg
        wanted = {
            "mean": tuple(own["mean"]),
            "std": tuple(own["std"]),
            "interpolation": own["interpolation"],
            "crop_fraction": 1.0 if own["resize_mode"] == "shortest" else own["resize_mode"],
        }
        pairs = ((name, getattr(preprocessing, name), value) for name, value in wanted.items())
        return "; ".join(f"{name} {found} instead of {value}" for name, found, value in pairs if found != value)

    @torch.inference_mode()
    def embed(self, texts: Sequence[str], label: str = "texts") -> Tensor:
        """Embed each text as a vector of length one: (T, P) float32, on the CPU."""
        parts = []
        with progress(label=label, total=len(texts), unit="text") as bar:
            for start in range(0, len(texts), BATCH):
                tokens = self.tokenize(list(texts[start : start + BATCH])).to(device())
                parts.append(self.network.encode_text(tokens, normalize=True).float().cpu())
                bar.update(len(tokens))
        return torch.cat(parts)

    def embed_names(self, names: Sequence[str], templates: Sequence[str]) -> Tensor:
        """Embed names in prompts, as CLIP does: the mean of unit vectors over the templates, scaled to length one."""
        mean_TP = torch.stack([self.embed([t.replace("{}", name) for name in names]) for t in templates]).mean(dim=0)
        return torch.nn.functional.normalize(mean_TP, dim=1)

    @torch.inference_mode()
    def embed_images(self, images: Tensor) -> Tensor:
        """Embed normalised images (B, 3, H, W) by the model's image tower: (B, P) float32 of length one, on the CPU."""
        return self.network.encode_image(images.to(device()), normalize=True).float().cpu()


def load_text_model(name: str, weights: str, image_size: int) -> TextModel:
    """Load a model of open_clip with its pre-trained weights; nothing is unpickled.

    Args:
        name: name in open_clip ("ViT-B-16"), or "hf-hub:…", or "local-dir:" and the path or URI of a folder with
            open_clip_config.json and weights.
        weights: only with a name in open_clip: one of its pre-trained tags, or the path or URI of a file, which must
            contain a slash or a dot.
        image_size: image size in pixels, to which the image tower's position embeddings are resized.

    Raises:
        MofeError: open_clip is not installed or has no such model, or the weights are unavailable.
    """
    try:
        import open_clip
    except ModuleNotFoundError as error:
        raise MofeError(f"text_model = {name!r} needs {error.name}: pip install 'mofe[clip]'") from error
    if name.startswith((LOCAL_MODEL, HUB)) == bool(weights):
        if weights:
            raise MofeError(f"text_model = {name!r} has its own weights: leave text_weights empty")
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(name)[:5]) or "none"
        raise MofeError(f"text_model = {name!r} needs text_weights: a file, or a tag of open_clip's; it has {tags}")
    shown = f"the text model {name}" + (f" with the weights {weights}" if weights else "")
    # the tag records the activation that its weights were trained with; by default open_clip only warns
    quick_gelu = bool((open_clip.get_pretrained_cfg(name, weights) or {}).get("quick_gelu"))
    with ExitStack() as opened:
        if name.startswith(LOCAL_MODEL):
            name = LOCAL_MODEL + str(opened.enter_context(locations.local_copy(name.removeprefix(LOCAL_MODEL))))
        elif locations.is_path(weights):
            weights = str(opened.enter_context(local_weights(weights)))
        try:
            network = open_clip.create_model(
                name,
                weights or None,
                device=device(),
                force_image_size=image_size,
                force_quick_gelu=quick_gelu,
                require_pretrained=True,
                weights_only=True,
            )
            tokenize = open_clip.get_tokenizer(name)
        except Exception as error:  # open_clip, huggingface_hub, torch and safetensors raise different types
            reason = in_one_line(error)
            raise MofeError(
                f"{shown} cannot be loaded: {reason}; without a network, give a folder: {LOCAL_MODEL}URI"
            ) from error
    return TextModel(network.eval().requires_grad_(False), tokenize)
