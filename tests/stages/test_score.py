"""score: one row an image, labels by name, thumbnails of the mistakes; what is unlike the training data scores low."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import mofe.stages.score as score_module
from mofe import load_detector
from mofe.artifacts import GALLERY_SCHEMA, ImageShards, ScoreTable, embedding_schema, score_schema, vectors
from mofe.data.images import decode
from mofe.data.loader import evaluation_transform
from mofe.detection import ood_metrics
from mofe.detector import SCORES
from mofe.errors import MofeError
from mofe.models import create_backbone
from mofe.stages.score import score


def scored(images: str, paths: SimpleNamespace, where: Path) -> ScoreTable:
    score(images, paths.detector, str(where), num_workers=0, precision="fp32")
    return ScoreTable(str(where))


def test_known_images_score_above_unknown_ones(
    detector: SimpleNamespace, make_images: Callable[..., str], tmp_path: Path
) -> None:
    known = scored(make_images("test", "test", per_class=10), detector, tmp_path / "a")
    unknown = scored(make_images("ood", "ood", classes=(5, 6)), detector, tmp_path / "b")
    assert known.table.schema == score_schema((*SCORES, *load_detector(detector.detector).info.compared))
    assert len(known.info.scores) > 60
    assert (known.table["label"].to_numpy() == known.table["predicted"].to_numpy()).mean() > 0.9
    assert set(unknown.table["label"].to_pylist()) == {-1}
    assert ood_metrics(known.table["knn"], unknown.table["knn"]).auroc > 0.9


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
    judge = load_detector(detector.detector)
    transform = evaluation_transform(judge.config.backbone.preprocessing)
    batch = torch.stack([transform(decode(ImageShards(images).image(p)[0])) for p in positions.tolist()])
    backbone = create_backbone(judge.config.backbone).eval()
    with torch.inference_mode():
        before, after = backbone.forward_features(batch)[:, 0], judge.model(batch).embedding_BD
    np.testing.assert_allclose(vectors(sample["before"]), before, atol=2e-3)
    np.testing.assert_allclose(vectors(sample["after"]), after, atol=2e-3)
