"""The backbone: any vision transformer of timm with a class token (DINOv2, CLIP, DeiT), or with own weights."""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import resolve_model_data_config
from timm.models import load_state_dict
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn

from mofe.artifacts.backbone import Backbone, Preprocessing
from mofe.errors import MofeError, in_one_line
from mofe.models.crops import crop_fraction
from mofe.storage import locations

RANDOM_WEIGHTS = "random"


def describe_backbone(
    name: str, args: Mapping[str, Any], weights: str = "", weights_digest: str = "", depth: int = 1
) -> Backbone:
    """Describe a backbone: its weights, and the preprocessing of its images.

    Raises:
        MofeError: timm does not know the name, ``args`` do not suit it, the model cannot have a MoFE layer, or there is
            no file of weights.
    """
    model = _build(name, args, pretrained=False)
    blocks = len(model.blocks)
    if not 1 <= depth < blocks:
        raise MofeError(f"mofe_depth = {depth} must lie between 1 and {blocks - 1}: {name} has {blocks} blocks")
    config = resolve_model_data_config(model)
    height, width = model.patch_embed.img_size
    if height != width:
        raise MofeError(f"backbone {name} takes images of {height} × {width}; only square ones are supported")
    preprocessing = Preprocessing(
        image_size=height,
        mean=config["mean"],
        std=config["std"],
        interpolation=config["interpolation"],
        crop_fraction=crop_fraction(name, args, config),
    )
    return Backbone(
        name=name,
        args=dict(args),
        weights=weights,
        weights_digest=weights_digest,
        weights_sha256=_sha256(weights),
        depth=depth,
        preprocessing=preprocessing,
    )


def _sha256(weights: str) -> str:
    if weights in ("", RANDOM_WEIGHTS):
        return ""
    with local_weights(weights) as file:
        return locations.sha256(file)


def create_backbone(spec: Backbone, *, load_weights: bool = True, drop_path: float = 0.0) -> VisionTransformer:
    """Create the backbone of ``spec`` with its pre-trained weights.

    Args:
        spec: description from :func:`describe_backbone`.
        load_weights: False keeps the random initial weights, for a caller that overwrites them.
        drop_path: stochastic depth rate of the last block; it rises linearly from 0 at the first.

    Raises:
        MofeError: the weights cannot be read or downloaded, do not fit the architecture, or are not those that ``spec``
            was made from.
    """
    args = {**spec.args, "drop_path_rate": drop_path}
    if not load_weights or spec.weights == RANDOM_WEIGHTS:
        with torch.random.fork_rng(devices=[]):  # "random" gives every stage the same weights
            torch.manual_seed(0)
            return _build(spec.name, args, pretrained=False)
    if not spec.weights:
        return _build(spec.name, args, pretrained=True)
    model = _build(spec.name, args, pretrained=False)
    with local_weights(spec.weights) as file:
        if spec.weights_sha256 not in ("", locations.sha256(file)):
            raise MofeError(
                f"the weights {spec.weights} are not those that features were extracted with: their SHA-256 is not "
                f"{spec.weights_sha256}. Restore the earlier weights, or run again from extract"
            )
        try:
            state = checkpoint_filter_fn(load_state_dict(str(file), weights_only=True), model)
            model.load_state_dict({name: w for name, w in state.items() if not name.startswith("head.")})
        except Exception as error:  # torch, safetensors and timm raise different types
            reason = in_one_line(error)
            raise MofeError(f"the weights {spec.weights} do not fit {spec.name}: {reason}") from error
    return model


def _build(name: str, args: Mapping[str, Any], pretrained: bool) -> VisionTransformer:
    try:
        model = timm.create_model(name, pretrained=pretrained, num_classes=0, **args)
    except Exception as error:  # timm and torch raise different types
        if (pretrained or name.startswith("hf-hub:")) and not isinstance(error, TypeError):
            raise MofeError(
                f"the pre-trained weights of {name} could not be fetched ({type(error).__name__}: {error}); "
                "without a network, give a file or URI in `weights`"
            ) from error
        if isinstance(error, RuntimeError) and "Unknown model" in str(error):
            close = ", ".join(timm.list_models(f"*{name.split('.')[0].split('_')[0]}*")[:3])
            raise MofeError(
                f"timm does not have the model {name!r}" + (f"; it has, for example, {close}" if close else "")
            ) from error
        reason = f"{type(error).__name__}: {in_one_line(error)}"
        raise MofeError(f"backbone_args {dict(args)} do not suit {name} ({reason})") from error
    if not isinstance(model, VisionTransformer) or not len(model.blocks):
        raise MofeError(f"{name} is a {type(model).__name__}: a MoFE needs timm's VisionTransformer, with blocks")
    if model.cls_token is None or model.global_pool != "token":
        raise MofeError(f"{name} has no class token to route by (pooling {model.global_pool!r}): choose a ViT with one")
    return model


@contextmanager
def local_weights(uri: str) -> Iterator[Path]:
    """Yield a local path of a file of weights. Its reader must read plain tensors only, never pickles.

    Raises:
        MofeError: there is no file at ``uri``, or its suffix is not that of a file of weights.
    """
    path = locations.resolve(uri)
    if path.suffix not in (".safetensors", ".pth", ".pt", ".bin"):
        raise MofeError(f"weights {uri}: expected a .safetensors file, or a .pth, .pt or .bin of plain tensors")
    if locations.is_local(path):
        if not Path(path.path).is_file():
            raise MofeError(f"there is no weights file at {uri}")
        yield Path(path.path)
        return
    with tempfile.TemporaryDirectory() as folder:
        local = Path(folder) / path.name
        local.write_bytes(locations.read_bytes(path, "weights file"))
        yield local
