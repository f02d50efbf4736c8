"""score: one row an image, labels by name, thumbnails of the mistakes; what is unlike the training data scores low."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from helpers import TINY, train_small
from tiny_clip import BACKBONE, write_tiny_clip

import mofe.stages.score as score_module
from mofe import load_detector
from mofe.artifacts.features import Features
from mofe.artifacts.image_shards import ImageShards
from mofe.artifacts.scores import GALLERY_SCHEMA, ScoreTable, embedding_schema, score_schema
from mofe.artifacts.tables import vectors
from mofe.data.images import decode
from mofe.data.loader import evaluation_transform, normalised
from mofe.detection import ood_metrics
from mofe.detection.concept_matching import mcm
from mofe.detection.knn import ExpertKNN
from mofe.device import device
from mofe.errors import MofeError
from mofe.inference.detector import SCORES
from mofe.models import create_backbone
from mofe.stages.extract import extract
from mofe.stages.index import index
from mofe.stages.score import score
from mofe.stages.texts import texts


def scored(images: str, paths: SimpleNamespace, where: Path, batch_size: int = 128) -> ScoreTable:
    score(images, paths.detector, str(where), batch_size=batch_size, num_workers=0, precision="fp32")
    return ScoreTable(str(where))


def test_known_images_score_above_unknown_ones(
    detector: SimpleNamespace, make_images: Callable[..., str], tmp_path: Path
) -> None:
    known = scored(make_images("test", "test", per_class=10), detector, tmp_path / "a")
    unknown = scored(make_images("ood", "ood", classes=(5, 6)), detector, tmp_path / "b")
    assert known.table.schema == score_schema((*SCORES, *load_detector(detector.detector).info.baselines))
    assert len(known.info.scores) > 60
    assert (known.table["label"].to_numpy() == known.table["predicted"].to_numpy()).mean() > 0.9
    assert set(unknown.table["label"].to_pylist()) == {-1}
    assert ood_metrics(known.table["knn"], unknown.table["knn"]).auroc > 0.9


@pytest.mark.usefixtures("groups_of_eight")
def test_eight_batches_are_asked_about_together(
    detector: SimpleNamespace, make_images: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, search = [], ExpertKNN.search

    def recorded(knn: ExpertKNN, embeddings_BD: np.ndarray, *more: Any) -> Any:
        asked.append(len(embeddings_BD))
        return search(knn, embeddings_BD, *more)

    images = make_images("test", "test", per_class=10)
    together = scored(images, detector, tmp_path / "a", 40)
    monkeypatch.setattr(ExpertKNN, "search", recorded)
    in_groups = scored(images, detector, tmp_path / "b", 2)
    assert set(asked) == {16, 8}, "of 40 images"
    assert in_groups.table["id"].equals(together.table["id"])
    np.testing.assert_allclose(in_groups.table["knn"], together.table["knn"], atol=1e-4)


def test_labels_go_by_name_not_by_number(
    detector: SimpleNamespace, make_images: Callable[..., str], tmp_path: Path
) -> None:
    some = scored(make_images("test", "test", classes=(3, 1)), detector, tmp_path / "a").table
    assert set(some["label"].to_pylist()) == {3, 1}
    assert (some["label"].to_numpy() == some["predicted"].to_numpy()).mean() > 0.9
    with pytest.raises(MofeError, match=r"1 classes that the model was not trained on, among them class7"):
        scored(make_images("odd", "test", classes=(1, 7)), detector, tmp_path / "b")


def test_the_gallery_holds_the_most_confident_mistakes(
    detector: SimpleNamespace, make_images: Callable[..., str], tmp_path: Path
) -> None:
    unknown = scored(make_images("ood", "ood", classes=(5, 6)), detector, tmp_path / "b")
    assert unknown.gallery.schema == GALLERY_SCHEMA
    best = sorted(unknown.table["knn"].to_pylist(), reverse=True)[:12]
    limit = load_detector(detector.detector).thresholds["knn"]
    nearest = sorted(unknown.table["knn"].to_pylist(), key=lambda value: abs(value - limit))[:12]
    assert unknown.gallery["knn"].to_pylist() == best + nearest
    assert unknown.gallery["kind"].to_pylist() == ["accepted"] * 12 + ["borderline"] * 12
    assert all(name.startswith("train/") for name in unknown.gallery["nearest"].to_pylist())
    assert all(t.startswith(b"\xff\xd8") for t in unknown.gallery["thumbnail"].to_pylist())


def test_the_sample_is_the_same_images_before_and_after(
    detector: SimpleNamespace, make_images: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(score_module, "SAMPLE", 7)
    table = scored(images := make_images("test", "test", per_class=10), detector, tmp_path / "a")
    sample = table.embeddings
    assert sample.schema == embedding_schema(24)
    positions = np.linspace(0, 39, 7).round().astype(int)
    assert sample["label"].to_pylist() == table.table["label"].take(positions).to_pylist()
    loaded = load_detector(detector.detector)
    preprocessing = loaded.config.backbone.preprocessing
    transform = evaluation_transform(preprocessing)
    pixels = torch.stack([transform(decode(ImageShards(images).image(p)[0])) for p in positions.tolist()])
    batch = normalised(pixels, preprocessing)
    backbone = create_backbone(loaded.config.backbone).eval()
    with torch.inference_mode():
        before, after = backbone.forward_features(batch)[:, 0], loaded.model(batch).embedding_BD
    np.testing.assert_allclose(vectors(sample["before"]), before, atol=2e-3)
    np.testing.assert_allclose(vectors(sample["after"]), after, atol=2e-3)


def test_scores_by_class_names_are_those_of_open_clip(make_images: Callable[..., str], tmp_path: Path) -> None:
    weights, images, words = write_tiny_clip(tmp_path / "clip"), make_images(per_class=20), str(tmp_path / "words")
    exact = {"num_workers": 0, "precision": "fp32"}
    extract(images, str(tmp_path / "features"), weights=str(weights), **BACKBONE, **exact)  # type: ignore[arg-type]
    paths = train_small(tmp_path, epochs=0)
    texts(images, paths.features, words, text_model=f"local-dir:{tmp_path}/clip", text_negatives=100)
    index(images, paths.features, paths.model, paths.detector, texts=words, knn_k=3, **exact)  # type: ignore[arg-type]

    test = make_images("test", "test", per_class=3)
    table, loaded = scored(test, paths, tmp_path / "scores", 5), load_detector(paths.detector)
    names = [name for name in table.info.scores if name.startswith("text.")]
    assert {"text.msp", "text.gl_mcm", "text.neglabel", "text.gda_msp", "text.cooked"} < set(names)
    assert set(names) < set(loaded.thresholds) & set(loaded.calibration.column_names)

    shards, preprocessing = ImageShards(test), loaded.config.backbone.preprocessing
    transform = evaluation_transform(preprocessing)
    pictures = [decode(shards.image(i)[0]) for i in range(len(shards))]
    theirs = open_clip.create_model(f"local-dir:{tmp_path}/clip", device="cpu").eval()
    prompts = open_clip.get_tokenizer("")([f"a photo of a {name}" for name in loaded.classes])
    with torch.inference_mode():
        pixels = torch.stack([transform(picture) for picture in pictures])
        image_BP = theirs.encode_image(normalised(pixels, preprocessing))
        text_CP = theirs.encode_text(prompts)
    np.testing.assert_allclose(table.table["text.mcm"], mcm(image_BP, text_CP), atol=1e-6)
    zero_shot = torch.nn.functional.normalize(image_BP, dim=1) @ torch.nn.functional.normalize(text_CP, dim=1).T
    right = zero_shot.argmax(dim=1).numpy() == table.table["label"].to_numpy()
    assert table.info.zero_shot_accuracy == pytest.approx(right.mean())

    asked = loaded.score(pictures, scores=["text.gl_mcm", "text.cooked", "pretrained.knn"], batch_size=5)
    for name in ("text.gl_mcm", "text.cooked", "pretrained.knn"):
        spread = float(table.table[name].to_numpy().std())  # asked in the precision of this machine
        np.testing.assert_allclose(asked.values[name], table.table[name], atol=spread / 5)
    others = make_images("others", classes=(0, 1, 2, 5))
    extract(others, str(tmp_path / "other"), weights=str(weights), **BACKBONE, **exact)  # type: ignore[arg-type]
    texts(others, str(tmp_path / "other"), words)
    with pytest.raises(MofeError, match="are for other classes than those of"):
        index(images, paths.features, paths.model, paths.detector, texts=words, knn_k=3, **exact)  # type: ignore[arg-type]


def test_a_machine_without_bf16_scores_as_the_one_that_made_the_detector(
    detector: SimpleNamespace, make_images: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What ``auto`` became is in every artifact; the pipeline's parameter stays as it was given."""
    images, features, made = make_images("test"), str(tmp_path / "anew"), str(tmp_path / "made")
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    extract(detector.images, features, backbone="vit_tiny_patch16_224", backbone_args=TINY, weights="random",
            num_workers=0)  # fmt: skip
    index(detector.images, detector.features, detector.model, made, knn_k=3, num_workers=0)
    score(images, made, str(tmp_path / "here"), num_workers=0)
    shards = ImageShards(images)
    pictures = [decode(shards.image(i)[0]) for i in range(8)]
    expected = load_detector(made).score(pictures).values

    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    there = load_detector(made)
    for name, values in there.score(pictures).values.items():
        np.testing.assert_array_equal(values, expected[name])
    score(images, made, str(tmp_path / "there"), num_workers=0)
    assert ScoreTable(str(tmp_path / "there")).table == ScoreTable(str(tmp_path / "here")).table
    assert (there.info.precision, there.info.parameters["precision"]) == ("bf16", "auto")
    assert Features(features).info.precision == "bf16"
    assert there.config.precision == ("fp32" if device().type == "cpu" else "bf16")
