"""extract: features are the untouched backbone's, prototypes their means."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from helpers import TINY

import mofe.artifacts.features
from mofe.artifacts.features import Features
from mofe.artifacts.image_shards import ImageShards
from mofe.data.images import decode
from mofe.data.loader import evaluation_transform, normalised
from mofe.errors import MofeError
from mofe.models import create_backbone
from mofe.stages.extract import extract

NAME = "vit_tiny_patch16_224"


def run(images: str, features: Path, **more: object) -> Features:
    options = {"backbone": NAME, "backbone_args": TINY, "weights": "random", "num_workers": 0, "precision": "fp32"}
    extract(images, str(features), **{**options, **more})  # type: ignore[arg-type]
    return Features(str(features))


def test_features_and_prototypes_are_the_backbones(make_images: Callable[..., str], tmp_path: Path) -> None:
    images = make_images()
    found = run(images, tmp_path / "f", batch_size=7)
    shards = ImageShards(images)
    backbone = create_backbone(found.info.backbone).eval()
    preprocessing = found.info.backbone.preprocessing
    transform = evaluation_transform(preprocessing)
    pixels = torch.stack([transform(decode(shards.image(i)[0])) for i in range(len(shards))])
    batch = normalised(pixels, preprocessing)
    with torch.inference_mode():
        final = backbone.forward_features(batch)[:, 0].numpy()
        backbone.blocks, backbone.norm = backbone.blocks[:-1], torch.nn.Identity()
        trunk = backbone.forward_features(batch)[:, 0].numpy()
    np.testing.assert_allclose(found.column("trunk"), trunk, atol=2e-3)  # stored as float16
    np.testing.assert_allclose(found.column("embedding"), final, atol=2e-3)
    assert pq.ParquetFile(tmp_path / "f" / Features.TABLE).num_row_groups == 1  # and not one a batch
    assert pq.read_table(tmp_path / "f" / Features.TABLE)["id"].to_pylist() == [
        shards.image(i)[1] for i in range(len(shards))
    ]
    for c in range(4):
        stored = found.column("trunk")[shards.labels_N == c].astype(np.float64)
        np.testing.assert_allclose(found.prototypes_CD[c], stored.mean(axis=0), rtol=1e-7)


def test_workers_and_batches_change_nothing(make_images: Callable[..., str], tmp_path: Path) -> None:
    images = make_images()
    a = run(images, tmp_path / "a", batch_size=48)
    b = run(images, tmp_path / "b", batch_size=5, num_workers=2)
    ids, others = (pq.read_table(tmp_path / name / Features.TABLE, columns=["id", "label"]) for name in ("a", "b"))
    assert ids == others
    np.testing.assert_allclose(a.column("embedding"), b.column("embedding"), atol=2e-3)


def test_vectors_of_several_row_groups_are_read_in_order(
    make_images: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mofe.artifacts.features, "FEATURE_ROWS", 7)
    found = run(make_images(), tmp_path / "f")
    table = pq.ParquetFile(tmp_path / "f" / Features.TABLE)
    assert table.num_row_groups > 3
    for name in ("trunk", "embedding"):
        np.testing.assert_array_equal(found.column(name), table.read()[name].to_pylist())


def test_bf16_is_near_float32(make_images: Callable[..., str], tmp_path: Path) -> None:
    images = make_images()
    a, b = run(images, tmp_path / "a"), run(images, tmp_path / "b", precision="bf16")
    np.testing.assert_allclose(a.column("embedding"), b.column("embedding"), atol=0.08)


def test_deeper_experts_take_their_features_from_an_earlier_block(
    make_images: Callable[..., str], tmp_path: Path
) -> None:
    images = make_images()
    one, two = run(images, tmp_path / "a"), run(images, tmp_path / "b", mofe_depth=2)
    assert np.abs(one.prototypes_CD - two.prototypes_CD).max() > 1e-2
    np.testing.assert_allclose(one.column("embedding"), two.column("embedding"), atol=2e-3)


def test_arguments_are_the_same_after_json_in_any_order(make_images: Callable[..., str], tmp_path: Path) -> None:
    images = make_images()
    found = run(images, tmp_path / "f", backbone_args={k: float(v) for k, v in reversed(TINY.items())})
    assert found.info.dim == 24
    assert found.info.identity == run(images, tmp_path / "g").info.identity


def test_a_backbone_that_does_not_exist_leaves_nothing_behind(make_images: Callable[..., str], tmp_path: Path) -> None:
    with pytest.raises(MofeError, match="timm does not have the model"):
        run(make_images(), tmp_path / "f", backbone="vit_enormous")
    assert not (tmp_path / "f").exists()
