"""Embeds the class names, and words far from them, with a language-image model."""

import json
from collections.abc import Callable, Sequence

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from mofe.artifacts.features import Features
from mofe.artifacts.image_shards import ImageShards
from mofe.artifacts.texts import TextInfo
from mofe.data.loader import ShardDataset, evaluation_transform, normalised
from mofe.detection.inputs import unit
from mofe.detection.negative_labels import far_words, shuffled_groups
from mofe.detection.texts import Texts, write_texts
from mofe.errors import MofeError, in_one_line
from mofe.models.text_model import TextModel, load_text_model
from mofe.models.weights import local_weights
from mofe.partitioning.wordnet import name_in_words, words
from mofe.storage import writing
from mofe.tracking import journal

TEMPLATES = ("a photo of a {}",)
"""Prompt of MCM."""
NICE = {"n": "the nice {}", "a": "This is a {} photo"}
"""Prompts of NegLabel for nouns, class names included, and for adjectives."""
SHARE = 0.15
"""Share of the candidate words that NegLabel keeps."""
GROUPS = 100
"""Number of groups that NegLabel's words are divided into."""

COMPARED = 8
"""Number of images on which backbone and image tower are compared."""
AGREEMENT = 0.99
"""Least mean cosine between the embeddings of the two, in half precision too."""

GIVEN = {"clipn_no": "clipn_no_CP", "lsn_yes": "lsn_yes_CP", "lsn_no": "lsn_no_JCP"}
"""Tensors that a file with embeddings of learned prompts may hold, and the fields of Texts for them."""


def texts(
    images: str,
    features: str,
    texts: str,
    *,
    text_model: str = "",
    text_weights: str = "",
    text_templates: Sequence[str] = TEMPLATES,
    text_negatives: int = 0,
    text_embeddings: str = "",
    digest: str = "",
) -> None:
    """Embed the names of the classes, for the detectors that compare an image with words (zero-shot, MCM, NegLabel, …).

    The backbone must be the image tower of the text model: the stage embeds a few training images with both and
    compares. It needs open_clip: pip install 'mofe[clip]'. Without a text model it writes an empty set, and the scores
    that need texts are left out.

    Args:
        images: training images written by prepare (path or URI).
        features: features of these images written by extract (path or URI).
        texts: path or URI of the folder to write the texts to.
        text_model: name of a model of open_clip (ViT-B-16), "hf-hub:…", or "local-dir:" and the path or URI of a folder
            with open_clip_config.json and weights; "" for none.
        text_weights: weights for a name of open_clip: a pre-trained tag (openai, laion2b_s34b_b88k, …), or the path or
            URI of a file.
        text_templates: sentences with {} for the name of a class; their embeddings are averaged.
        text_negatives: number of negative words of WordNet for NegLabel, at least 100; 0 for none. NegLabel's paper
            takes 10 000 for ImageNet, 15 % of its candidate words; the stage embeds all candidates.
        text_embeddings: safetensors file (path or URI) with embeddings of learned prompts, one row per class:
            clipn_no (C × P); lsn_yes (C × P) and lsn_no (J × C × P). Its metadata "classes" names the rows, as JSON.
        digest: digest of the files of the text model, made by fingerprint. It is recorded.

    Raises:
        MofeError: the text model does not fit the backbone, or a parameter is invalid.
    """
    found = Features(features)
    info = TextInfo(
        made_from={"features": found.info.identity},
        digest=digest,
        backbone=found.info.backbone,
        classes=found.info.classes,
        names=(),
        negatives=(),
        parameters={
            "text_model": text_model,
            "text_weights": text_weights,
            "text_templates": list(text_templates),
            "text_negatives": text_negatives,
            "text_embeddings": text_embeddings,
        },
    )
    if not text_model:
        with writing.staged(texts) as folder:
            write_texts(folder, info, None)
        return
    with journal.stage_run("texts", {"text_model": text_model, "text_weights": text_weights}) as run:
        _check_templates(text_templates)
        model = load_text_model(text_model, text_weights, found.info.backbone.preprocessing.image_size)
        _check_image_tower(model, text_model, ImageShards(images, hashed=False), found)
        names = [name_in_words(*pair) for pair in zip(found.info.classes, found.info.synsets, strict=True)]
        given = _read_prompts(text_embeddings, found.info.classes, model.projection_DP.shape[1])
        embedded, negatives = _embed(model, names, text_templates, text_negatives, given)
        with writing.staged(texts) as folder:
            embedded_words = {"names": tuple(names), "negatives": tuple(negatives)}
            write_texts(folder, info.model_copy(update=embedded_words), embedded)
        run.metrics({"classes": len(names), "negatives": len(negatives), "logit_scale": embedded.logit_scale})


def _check_templates(templates: Sequence[str]) -> None:
    for template in templates or ("",):
        if "{}" not in template:
            raise MofeError(f"text_templates: {template!r} has no {{}}: write {{}} in the place of the class name")


def _embed(
    model: TextModel, names: Sequence[str], templates: Sequence[str], num_negatives: int, given: dict[str, Tensor]
) -> tuple[Texts, list[str]]:
    """Embed the names of the classes, and ``num_negatives`` negative words; return the embeddings and these words."""
    nice_CP = negative_KP = None
    negatives: list[str] = []
    if num_negatives:
        nice_CP = model.embed_names(names, [NICE["n"]])
        negatives, negative_KP = _negative_words(num_negatives, nice_CP, model.embed)
    embedded = Texts(
        projection_DP=model.projection_DP,
        logit_scale=model.logit_scale,
        class_CP=model.embed_names(names, templates),
        nice_CP=nice_CP,
        negative_KP=negative_KP,
        **given,
    )
    return embedded, negatives


def _check_image_tower(model: TextModel, name: str, shards: ImageShards, found: Features) -> None:
    """Check that the backbone is the image tower that was trained with this text model, and sees images as it does.

    Raises:
        MofeError: it is not or does not, so texts and images cannot be compared.
    """
    backbone, projection_DP = found.info.backbone, model.projection_DP
    if len(projection_DP) != found.info.dim:
        raise MofeError(
            f"text_model = {name!r} needs image embeddings of {len(projection_DP)} dimensions, but the backbone "
            f"{backbone.name} gives {found.info.dim}: choose the backbone that is the model's image tower"
        )
    if unlike := model.differs_from(backbone.preprocessing):
        raise MofeError(
            f"the backbone {backbone.name} preprocesses images unlike text_model = {name!r}: {unlike}; set the model's "
            "own in backbone_args: {pretrained_cfg_overlay: {crop_pct: …, mean: …, std: …, interpolation: …}}"
        )
    positions = np.unique(np.linspace(0, len(shards) - 1, COMPARED).round().astype(int))
    dataset = ShardDataset(shards, evaluation_transform(backbone.preprocessing))
    pixels = torch.stack([dataset[position][0] for position in positions.tolist()])
    theirs_BP = model.embed_images(normalised(pixels, backbone.preprocessing))
    ours_BP = unit(torch.from_numpy(found.column("embedding")[positions]).float() @ projection_DP)
    agreement = float((ours_BP * theirs_BP).sum(dim=1).mean())
    if not agreement >= AGREEMENT:
        raise MofeError(
            f"the image tower of text_model = {name!r} is not the backbone {backbone.name}: their embeddings of "
            f"{len(positions)} training images have a mean cosine of {agreement:.2f}: take both from the same weights "
            "(weights of OpenAI need a backbone named …_clip_quickgelu_…)"
        )


def _negative_words(
    count: int, nice_CP: Tensor, embed: Callable[[Sequence[str], str], Tensor]
) -> tuple[list[str], Tensor]:
    """Choose NegLabel's negative words; return them group by group, and their embeddings (K, P).

    It draws candidates at random among WordNet's nouns and adjectives, in proportion to their numbers. Of each kind it
    keeps the 15 % that are farthest from the classes.
    """
    kinds = {kind: words(kind) for kind in NICE}
    random = np.random.default_rng(0)
    chosen, parts = [], []
    for kind, wanted in _divide(count, {kind: len(of_kind) for kind, of_kind in kinds.items()}).items():
        needed = min(int(np.ceil((wanted + 1) / SHARE)), len(kinds[kind]))
        candidates = [kinds[kind][i] for i in np.sort(random.choice(len(kinds[kind]), needed, replace=False))]
        candidate_KP = embed([NICE[kind].replace("{}", word) for word in candidates], "negative words")
        far = far_words(candidate_KP, nice_CP, SHARE)[:wanted]
        chosen += [candidates[i] for i in far.tolist()]
        parts.append(candidate_KP[far])
    order_K = shuffled_groups(len(chosen), GROUPS)
    return [chosen[i] for i in order_K.tolist()], torch.cat(parts)[order_K]


def _divide(count: int, available: dict[str, int]) -> dict[str, int]:
    """Divide ``count`` words in proportion to the available nouns and adjectives, at most SHARE of each kind."""
    most = {kind: int(SHARE * size) for kind, size in available.items()}
    if not GROUPS <= count <= sum(most.values()):
        raise MofeError(f"text_negatives = {count} must be 0, or between {GROUPS} and {sum(most.values())}")
    nouns = round(count * available["n"] / sum(available.values()))
    nouns = min(max(nouns, count - most["a"]), most["n"])
    return {"n": nouns, "a": count - nouns}


def _read_prompts(uri: str, classes: tuple[str, ...], width: int) -> dict[str, Tensor]:
    """Read the embeddings of learned prompts, scale them to length one, and sort their rows by ``classes``."""
    if not uri:
        return {}
    tensors, rows = _read_safetensors(uri)
    missing = [name for name in classes if name not in rows]
    if missing:
        raise MofeError(
            f"text_embeddings {uri} has no row for the class {missing[0]!r}: its safetensors metadata must hold "
            '"classes", a JSON list of the names of its rows'
        )
    if not tensors or set(tensors) - set(GIVEN) or ("lsn_yes" in tensors) != ("lsn_no" in tensors):
        raise MofeError(
            f"text_embeddings {uri} holds {sorted(tensors)}: give clipn_no, or lsn_yes and lsn_no, or all three"
        )
    order_C = torch.tensor([rows.index(name) for name in classes])
    ordered = {}
    for name, tensor in tensors.items():
        if tensor.ndim != (3 if name == "lsn_no" else 2) or tensor.shape[-2:] != (len(rows), width):
            raise MofeError(
                f"text_embeddings {uri}: {name} has the shape {tuple(tensor.shape)}, but must be "
                f"… × {len(rows)} × {width}"
            )
        ordered[GIVEN[name]] = unit(tensor.float())[..., order_C, :]
    return ordered


def _read_safetensors(uri: str) -> tuple[dict[str, Tensor], list[str]]:
    """Read the tensors of a file, and the names of their rows."""
    with local_weights(uri) as file:
        try:
            with safe_open(file, "pt") as opened:
                tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
                return tensors, json.loads((opened.metadata() or {}).get("classes", "[]"))
        except Exception as error:  # safetensors raises its own classes of errors
            raise MofeError(f"text_embeddings {uri} cannot be read: {in_one_line(error)}") from error
