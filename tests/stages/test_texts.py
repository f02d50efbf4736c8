"""texts: embeddings are open_clip's, for the very backbone, and what does not fit is refused in one line."""

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import open_clip
import pytest
import torch
from helpers import write_images
from safetensors.torch import save_file
from tiny_clip import BACKBONE, CONFIG, write_tiny_clip

from mofe.artifacts.features import Features
from mofe.artifacts.image_shards import ImageShards
from mofe.artifacts.metrics import Metrics
from mofe.data.images import decode
from mofe.data.loader import evaluation_transform, normalised
from mofe.detection.concept_matching import zero_shot_logits
from mofe.detection.texts import Texts, read_texts
from mofe.errors import MofeError
from mofe.inference.embedding import create_pretrained
from mofe.partitioning.wordnet import words
from mofe.stages.evaluate import evaluate
from mofe.stages.extract import extract
from mofe.stages.finetune import finetune
from mofe.stages.index import index
from mofe.stages.partition import partition
from mofe.stages.score import score
from mofe.stages.texts import _divide, texts


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Images, a tiny CLIP, and features of the images by its image half."""
    folder = tmp_path_factory.mktemp("texts")
    weights = write_tiny_clip(folder / "clip")
    images = write_images(folder, per_class=5)
    extract(images, str(folder / "features"), weights=str(weights), num_workers=0, precision="fp32", **BACKBONE)
    model = f"local-dir:{folder}/clip"
    return SimpleNamespace(images=images, features=str(folder / "features"), model=model, weights=weights)


@pytest.fixture
def embed(made: SimpleNamespace, tmp_path: Path) -> Any:
    """Runs the stage on the tiny CLIP; ``embed(text_negatives=100)``."""

    def run(**parameters: Any) -> Texts:
        given = {"text_model": made.model, **parameters}
        texts(made.images, made.features, str(tmp_path / "texts"), **given)
        found = read_texts(str(tmp_path / "texts"))[1]
        assert found is not None
        return found

    return run


def reference(made: SimpleNamespace) -> Any:
    return open_clip.create_model(made.model, device="cpu").eval()


@torch.inference_mode()
def test_stored_features_and_texts_give_the_logits_of_open_clip(made: SimpleNamespace, embed: Any) -> None:
    found, theirs = embed(), reference(made)
    shards = ImageShards(made.images)
    preprocessing = Features(made.features).info.backbone.preprocessing
    transform = evaluation_transform(preprocessing)
    images = normalised(torch.stack([transform(decode(shards.image(i)[0])) for i in range(len(shards))]), preprocessing)
    prompts = open_clip.get_tokenizer(made.model)([f"a photo of a class{c}" for c in range(4)])
    expected_BC, _ = theirs.get_logits(images, prompts)
    backbone = create_pretrained(Features(made.features).info.backbone, shards.info.classes).eval()
    embedding_BD = backbone(images).embedding_BD
    image_BP = found.project(embedding_BD)
    torch.testing.assert_close(image_BP, theirs.encode_image(images), rtol=0, atol=1e-5)
    ours_BC = zero_shot_logits(image_BP, found.class_CP, found.logit_scale)
    torch.testing.assert_close(ours_BC, expected_BC, rtol=0, atol=1e-4)
    assert ours_BC.std(dim=0).min() > 0.01, "images differ, or the comparison says nothing"
    stored_ND = torch.from_numpy(Features(made.features).column("embedding"))
    stored_BC = zero_shot_logits(found.project(stored_ND), found.class_CP, found.logit_scale)
    torch.testing.assert_close(stored_BC, expected_BC, rtol=0, atol=0.02)  # stored in half precision


@torch.inference_mode()
def test_several_templates_are_averaged_as_clip_does(made: SimpleNamespace, embed: Any) -> None:
    templates = ["a photo of a {}", "{}, drawn badly"]
    found, theirs = embed(text_templates=templates), reference(made)
    tokenize = open_clip.get_tokenizer(made.model)
    for c in range(4):
        rows = theirs.encode_text(tokenize([t.replace("{}", f"class{c}") for t in templates]), normalize=True)
        mean = rows.mean(dim=0)
        torch.testing.assert_close(found.class_CP[c], mean / mean.norm(), rtol=0, atol=1e-6)
    assert found.nice_CP is None


@torch.inference_mode()
def test_negative_words_are_the_farthest_of_wordnets(made: SimpleNamespace, embed: Any, tmp_path: Path) -> None:
    found = embed(text_negatives=105)
    info, _ = read_texts(str(tmp_path / "texts"))
    assert len(info.negatives) == len(set(info.negatives)) == 100, "100 groups of one; the rest is left out"
    nouns, adjectives = set(words("n")), set(words("a"))
    assert set(info.negatives) <= nouns | adjectives
    theirs, tokenize = reference(made), open_clip.get_tokenizer(made.model)
    nice_CP = theirs.encode_text(tokenize([f"the nice class{c}" for c in range(4)]), normalize=True)
    torch.testing.assert_close(found.nice_CP, nice_CP, rtol=0, atol=1e-6)
    alone = [i for i, word in enumerate(info.negatives) if word not in adjectives][:5]
    prompts = [f"the nice {info.negatives[i]}" for i in alone]
    expected = theirs.encode_text(tokenize(prompts), normalize=True)
    assert found.negative_KP is not None
    torch.testing.assert_close(found.negative_KP[alone], expected, rtol=0, atol=1e-6)
    any_words = theirs.encode_text(tokenize([f"the nice {w}" for w in words("n")[::2000]]), normalize=True)
    near = [(part @ nice_CP.T).quantile(0.95, dim=1) for part in (expected, any_words)]
    assert near[0].max() < near[1].median(), "they are farther from the classes than words are"
    with pytest.raises(MofeError, match="text_negatives = 7 must be 0, or between 100 and 20"):
        embed(text_negatives=7)


def test_of_neither_kind_more_words_are_wanted_than_are_kept() -> None:
    available = {"n": 117_798, "a": 21_479}
    for count in (100, 10_000, 20_889, 20_890):
        wanted = _divide(count, available)
        assert sum(wanted.values()) == count
        assert wanted["n"] <= 17_669
        assert wanted["a"] <= 3_221
        assert wanted["n"] == pytest.approx(count * 117_798 / 139_277, abs=1)
    with pytest.raises(MofeError, match="between 100 and 20890"):
        _divide(20_891, available)


def test_learned_prompts_are_found_by_the_name_of_their_class(embed: Any, tmp_path: Path) -> None:
    rows = [f"class{c}" for c in (2, 0, 9, 1, 3)]
    given = {"clipn_no": torch.randn(5, 20), "lsn_yes": torch.randn(5, 20), "lsn_no": torch.randn(3, 5, 20)}
    file = str(tmp_path / "prompts.safetensors")
    save_file(given, file, {"classes": json.dumps(rows)})
    found = embed(text_embeddings=file)
    order = [1, 3, 0, 4]
    torch.testing.assert_close(found.clipn_no_CP, torch.nn.functional.normalize(given["clipn_no"], dim=1)[order])
    torch.testing.assert_close(found.lsn_no_JCP, torch.nn.functional.normalize(given["lsn_no"], dim=2)[:, order])
    for tensors, metadata, message in (
        (given, None, "no row for the class 'class0': its safetensors metadata"),
        ({"lsn_no": given["lsn_no"]}, rows, r"holds \['lsn_no'\]: give clipn_no, or lsn_yes and lsn_no"),
        ({"clipn_no": torch.randn(5, 7)}, rows, r"clipn_no has the shape \(5, 7\), but must be … × 5 × 20"),
    ):
        save_file(tensors, file, metadata and {"classes": json.dumps(metadata)})
        with pytest.raises(MofeError, match=message):
            embed(text_embeddings=file)


def test_without_a_model_there_are_none_and_open_clip_is_not_asked_for(
    made: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)
    texts(made.images, made.features, str(tmp_path / "texts"))
    info, found = read_texts(str(tmp_path / "texts"))
    assert (info.model, info.classes, found) == ("", ("class0", "class1", "class2", "class3"), None)


def test_another_models_image_half_is_refused(embed: Any, tmp_path: Path) -> None:
    write_tiny_clip(tmp_path / "other", seed=1)
    with pytest.raises(MofeError, match=r"is not the backbone vit_base_patch16_clip_224: .* of 8 training images"):
        embed(text_model=f"local-dir:{tmp_path}/other")
    wide = {**CONFIG, "vision_cfg": {**CONFIG["vision_cfg"], "width": 36}}  # type: ignore[dict-item]
    shutil.rmtree(tmp_path / "other")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/open_clip_config.json").write_text(json.dumps({"model_cfg": wide}))
    save_file(open_clip.CLIP(**wide).state_dict(), tmp_path / "other/open_clip_model.safetensors")  # type: ignore[arg-type]
    with pytest.raises(MofeError, match=r"image embeddings of 36 dimensions, but the backbone .* gives 24"):
        embed(text_model=f"local-dir:{tmp_path}/other")


def test_an_image_half_that_sees_images_otherwise_is_refused(made: SimpleNamespace, tmp_path: Path) -> None:
    overlay = {"crop_pct": 0.9, "mean": [0.5, 0.5, 0.5]}
    backbone = {**BACKBONE, "backbone_args": {**BACKBONE["backbone_args"], "pretrained_cfg_overlay": overlay}}
    features = str(tmp_path / "features")
    extract(made.images, features, weights=str(made.weights), num_workers=0, precision="fp32", **backbone)
    with pytest.raises(MofeError, match=r"mean \(0\.5.* instead of \(0\.48.*; crop_fraction 0\.9 instead of 1\.0; set"):
        texts(made.images, features, str(tmp_path / "texts"), text_model=made.model)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"text_model": "ViT-B-16"}, r"'ViT-B-16' needs text_weights: a file, or a tag of open_clip's; it has openai"),
        (
            {"text_model": "ViT-B-61", "text_weights": "openai"},
            "ViT-B-61 with the weights openai cannot be loaded: Mod",
        ),
        ({"text_model": "local-dir:/nowhere"}, "/nowhere"),
        ({"text_weights": "openai"}, "has its own weights: leave text_weights empty"),
        ({"text_templates": ["a photo"]}, r"'a photo' has no {}: write {} in the place"),
        ({"text_templates": []}, r"has no {}: write {} in the place"),
    ],
)
def test_what_cannot_be_is_one_line(embed: Any, parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(MofeError, match=message) as refused:
        embed(**parameters)
    assert "\n" not in str(refused.value)


def test_without_the_extra_it_says_how_to_get_it(embed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(MofeError, match=r"needs open_clip: pip install 'mofe\[clip\]'"):
        embed()


def test_a_name_of_open_clips_own_with_weights_of_a_file(made: SimpleNamespace, embed: Any, tmp_path: Path) -> None:
    (tmp_path / "tiny-clip.json").write_text(json.dumps(CONFIG))
    open_clip.add_model_config(tmp_path / "tiny-clip.json")
    by_name = embed(text_model="tiny-clip", text_weights=str(made.weights))
    torch.testing.assert_close(by_name.class_CP, embed().class_CP)
    torch.save({"state_dict": {"x": SimpleNamespace()}}, tmp_path / "pickle.pt")
    with pytest.raises(MofeError, match=r"cannot be loaded: .*[Ww]eights.only"):
        embed(text_model="tiny-clip", text_weights=str(tmp_path / "pickle.pt"))


def test_the_way_to_the_report(made: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = {
        name: str(tmp_path / name)
        for name in ("texts", "partition", "model", "history", "detector", "metrics", "roc", "report")
    }
    texts(made.images, made.features, place["texts"], text_model=made.model, text_negatives=100)
    partition(made.features, place["partition"], num_experts=2, strategy="kmeans++")
    options = {"num_workers": 0, "precision": "fp32"}
    finetune(
        made.images, made.features, place["partition"], place["model"], place["history"], epochs=0,
        validation_fraction=0.2, **options,
    )  # type: ignore[arg-type]  # fmt: skip
    index(made.images, made.features, place["model"], place["detector"], texts=place["texts"], **options)  # type: ignore[arg-type]
    sets = [("id-test", "test", (0, 1, 2, 3)), ("strange", "ood", (5, 6))]
    scores = [str(tmp_path / f"scores-{name}") for name, _, _ in sets]
    for (name, role, classes), table in zip(sets, scores, strict=True):
        images = write_images(tmp_path, name, role, classes, per_class=4)  # type: ignore[arg-type]
        score(images, place["detector"], table, **options)  # type: ignore[arg-type]
    outputs = {name: place[name] for name in ("metrics", "roc", "report")}
    evaluate(scores, place["partition"], place["history"], **outputs)
    metrics = Metrics.read_file(place["metrics"])
    wanted = {"text.mcm", "text.gl_mcm", "text.neglabel", "text.gda_msp", "text.cooked"}
    assert wanted < {result.score for result in metrics.results}
    assert metrics.zero_shot_accuracy is not None
    assert metrics.parameters["text_model"] == made.model
    assert metrics.parameters["text_templates"] == ["a photo of a {}"]
    assert f"zero-shot accuracy {metrics.zero_shot_accuracy:.2%}" in capsys.readouterr().out
    page = Path(place["report"]).read_text()
    assert "by the class names alone" in page
    assert "gl_mcm" in page
