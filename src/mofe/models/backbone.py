"""The backbone: any vision transformer of timm with a class token (DINOv2, CLIP, DeiT), or with own weights."""

import re
from collections.abc import Mapping
from typing import Any

import timm
import torch
from timm.data import resolve_model_data_config
from timm.models.vision_transformer import VisionTransformer

from mofe.arguments import instance, number, text, texts
from mofe.artifacts.backbone import Backbone, Preprocessing
from mofe.errors import MofeError, in_one_line, shown
from mofe.models import weights as weights_files
from mofe.models.crops import crop_fraction
from mofe.storage import locations

RANDOM_WEIGHTS = "random"


def describe_backbone(
    name: str, args: Mapping[str, Any], weights: str = "", weights_digest: str = "", depth: int = 1
) -> Backbone:
    """Describe a backbone: its weights, and the preprocessing of its images.

    Raises:
        MofeError: timm does not know the name, ``args`` do not suit it, the model cannot have a MoFE layer or does not
            take RGB images, or there is no file of weights.
    """
    for given, value in (("backbone", name), ("weights", weights), ("weights_digest", weights_digest)):
        text(given, value)
    texts("backbone_args", list(instance("backbone_args", args, Mapping)))
    model = _build(name, args, pretrained=False)
    depth = check_depth("mofe_depth", depth, len(model.blocks), f": {name} has {len(model.blocks)} blocks")
    config = resolve_model_data_config(model)
    height, width = model.patch_embed.img_size
    if height != width:
        raise MofeError(f"backbone {name} takes images of {height} × {width}; only square ones are supported")
    _check_input(model, name, height)
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
        weights_place="" if weights in ("", RANDOM_WEIGHTS) else str(locations.resolve(weights)),
        weights_digest=weights_digest,
        weights_sha256=_sha256(weights),
        depth=depth,
        preprocessing=preprocessing,
    )


def check_depth(name: str, depth: int, blocks: int, reason: str = "") -> int:
    """The depth of a MoFE in a backbone with so many blocks, of which one at least is before it.

    Raises:
        MofeError: there is only one block, or the depth is not a whole number from 1 to ``blocks`` − 1.
    """
    if blocks < 2:
        raise MofeError(
            f"the backbone has {blocks} block: experts are copies of its last blocks, and one block at least must come "
            "before them; take a backbone with two or more"
        )
    if not isinstance(depth, int | float) or depth not in range(1, blocks):
        raise MofeError(f"{name} = {shown(depth)} must lie between 1 and {blocks - 1}{reason}")
    return int(depth)


@torch.inference_mode()
def _check_input(model: VisionTransformer, name: str, size: int) -> None:
    """Send zeros through the model, because its arguments do not show all that it cannot take."""
    try:
        tokens_1TD = model.eval().forward_features(torch.zeros(1, 3, size, size))
    except Exception as error:  # whatever the layers of a model raise
        channels = getattr(model.patch_embed.proj, "in_channels", 3)
        hint = f": it takes {channels} channels; leave in_chans out of backbone_args" if channels != 3 else ""
        raise MofeError(
            f"backbone {name} does not take RGB images of 3 × {size} × {size}{hint} ({in_one_line(error)})"
        ) from error
    if tokens_1TD.ndim != 3 or tokens_1TD.shape[2] != model.embed_dim:
        raise MofeError(f"backbone {name} gives {tuple(tokens_1TD.shape)} for an image, not 1 × tokens × features")


def _sha256(weights: str) -> str:
    if weights in ("", RANDOM_WEIGHTS):
        return ""
    with weights_files.local_weights(weights) as file:
        return locations.sha256(file)


def _place_of(spec: Backbone) -> str:
    """Where the weights are: at their place, or, if a project was moved, as they were given."""
    places = (spec.weights_place, spec.weights)
    found = (place for place in places if place and locations.kind(locations.resolve(place)))
    return next(found, spec.weights_place or spec.weights)


def create_backbone(spec: Backbone, *, load_weights: bool = True, drop_path: float = 0.0) -> VisionTransformer:
    """Create the backbone of ``spec`` with its pre-trained weights.

    Args:
        spec: description from :func:`describe_backbone`.
        load_weights: False keeps the random initial weights, for a caller that overwrites them.
        drop_path: stochastic depth rate of the last block; it rises linearly from 0 at the first.

    Raises:
        MofeError: the weights cannot be read or downloaded, do not fit the architecture, or are not those that ``spec``
            was made from, or an argument is of another type.
    """
    instance("spec", spec, Backbone)
    args = {**spec.args, "drop_path_rate": number("drop_path", drop_path, 0, 0.99)}
    if not load_weights or spec.weights == RANDOM_WEIGHTS:
        with torch.random.fork_rng(devices=[]):  # "random" gives every stage the same weights
            torch.manual_seed(0)
            return _build(spec.name, args, pretrained=False)
    if not spec.weights:
        return _build(spec.name, args, pretrained=True)
    model = _build(spec.name, args, pretrained=False)
    with weights_files.local_weights(_place_of(spec)) as file:
        if spec.weights_sha256 not in ("", locations.sha256(file)):
            raise MofeError(
                f"the weights {spec.weights} are not those that features were extracted with: their SHA-256 is not "
                f"{spec.weights_sha256}. Restore the earlier weights, or run again from extract"
            )
        weights_files.load_weights(model, file, spec.weights, spec.name)
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
        if not timm.is_model(name) and not name.startswith("hf-hub:"):
            raise MofeError(_unknown(name)) from error
        reason = f"{type(error).__name__}: {in_one_line(error)}"
        raise MofeError(f"backbone_args {dict(args)} do not suit {name} ({reason})") from error
    return check_backbone(model, name)


def check_backbone(model: Any, name: str) -> VisionTransformer:
    """The model, if it can carry a MoFE.

    Raises:
        MofeError: it is not timm's vision transformer with blocks, or has no class token.
    """
    if not isinstance(model, VisionTransformer) or not len(model.blocks):
        raise MofeError(f"{name} is a {type(model).__name__}: a MoFE needs timm's VisionTransformer, with blocks")
    if model.cls_token is None or model.global_pool != "token":
        raise MofeError(f"{name} has no class token to route by (pooling {model.global_pool!r}): choose a ViT with one")
    return model


def _unknown(name: str) -> str:
    """Hint for a name that timm does not have: models with similar names, and the form of a name on the hub."""
    family = re.split(r"[._-]", name.rsplit("/", maxsplit=1)[-1])[0]
    known = timm.list_models(f"*{family}*", pretrained="/" in name) if family else []
    hint = f"; it has, for example, {', '.join(known[:3])}" if known else ""
    if "/" in name:
        hint += f"; a repository of the Hugging Face hub that holds a model of timm's is named hf-hub:{name}"
    return f"timm does not have the model {name!r}{hint}"
