"""Loading text models: what open_clip is asked for. What they give is held by tests/stages/test_texts.py."""

from typing import Any

import open_clip
import pytest
import torch
from tiny_clip import CONFIG

from mofe.errors import MofeError
from mofe.models.text_model import TextModel, load_text_model


@pytest.mark.parametrize(("tag", "quick"), [("openai", True), ("laion2b_s34b_b88k", False)])
def test_the_activation_is_the_one_that_the_weights_were_trained_with(
    tag: str, quick: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenAI's have another than open_clip's ViT-B-16; it would only warn, and every embedding would be a bit wrong."""
    asked: dict[str, Any] = {}

    def create_model(name: str, pretrained: str, **more: Any) -> Any:
        asked.update(more, name=name, pretrained=pretrained)
        return open_clip.CLIP(**CONFIG)  # type: ignore[arg-type]

    monkeypatch.setattr(open_clip, "create_model", create_model)
    model = load_text_model("ViT-B-16", tag, 224)
    assert (asked["name"], asked["pretrained"], asked["force_quick_gelu"]) == ("ViT-B-16", tag, quick)
    assert asked["weights_only"] and asked["require_pretrained"] and asked["force_image_size"] == 224
    assert not model.network.training
    assert not any(parameter.requires_grad for parameter in model.network.parameters())


@pytest.mark.parametrize("name", ["ViT-B-16", "ViT-B-61"])
def test_a_model_without_weights_is_told_which_there_are(name: str) -> None:
    tags = ", ".join(open_clip.list_pretrained_tags_by_model(name)[:5]) if name == "ViT-B-16" else "none"
    with pytest.raises(MofeError, match=rf"'{name}' needs text_weights: .* it has {tags}$"):
        load_text_model(name, "", 224)


@pytest.mark.parametrize(
    ("name", "tag", "shown"),
    [
        ("hf-hub:someone/clip", "", "hf-hub:someone/clip"),
        ("ViT-B-16", "openai", "ViT-B-16 with the weights openai"),
    ],
)
def test_a_model_that_cannot_be_loaded_is_named(
    name: str, tag: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def create_model(*_: Any, **__: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(open_clip, "create_model", create_model)
    with pytest.raises(MofeError, match=f"^the text model {shown} cannot be loaded: no route to host; "):
        load_text_model(name, tag, 224)


def test_a_text_is_the_same_alone_and_among_many() -> None:
    model = TextModel(open_clip.CLIP(**CONFIG).eval(), open_clip.get_tokenizer(""))  # type: ignore[arg-type]
    many_TP = model.embed([f"number {i}" for i in range(300)])
    torch.testing.assert_close(many_TP[280:281], model.embed(["number 280"]), rtol=0, atol=1e-6)
    torch.testing.assert_close(many_TP.norm(dim=1), torch.ones(300))


def test_an_image_half_without_a_projection_is_refused() -> None:
    convolutional = {**CONFIG, "vision_cfg": {"layers": [1, 1, 1, 1], "width": 8, "image_size": 32}}
    model = TextModel(open_clip.CLIP(**convolutional), open_clip.get_tokenizer(""))  # type: ignore[arg-type]
    with pytest.raises(MofeError, match="the image tower is a ModifiedResNet"):
        _ = model.projection_DP
