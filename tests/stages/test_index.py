"""index: the bank is the training images through their own expert; thresholds keep 95 % of those held out."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from helpers import TINY

from mofe import load_detector
from mofe.artifacts.detector import BANK_SCHEMA, DetectorInfo, calibration_schema
from mofe.artifacts.image_shards import ImageShards
from mofe.data.images import decode
from mofe.data.loader import evaluation_transform, normalised
from mofe.data.validation_split import validation_mask
from mofe.detection.knn import default_k
from mofe.device import device
from mofe.errors import MofeError
from mofe.stages.extract import extract
from mofe.stages.index import index


def test_the_bank_is_each_image_through_the_expert_of_its_class(detector: SimpleNamespace) -> None:
    loaded = load_detector(detector.detector)
    shards = ImageShards(detector.images)
    held_N = validation_mask(shards.labels_N, 0.05, 0)
    table = pq.read_table(f"{detector.detector}/bank.parquet")
    assert table.schema == BANK_SCHEMA
    bank = table.to_pydict()
    known = np.flatnonzero(~held_N)
    assert bank["id"] == [shards.image(i)[1] for i in known]
    preprocessing = loaded.config.backbone.preprocessing
    transform = evaluation_transform(preprocessing)
    experts_N = np.array(loaded.experts)[shards.labels_N[known]]
    batch = normalised(torch.stack([transform(decode(shards.image(i)[0])) for i in known]), preprocessing)
    with torch.inference_mode():
        place = device()
        embedding_ND = loaded.model(batch.to(place), torch.from_numpy(experts_N).to(place)).embedding_BD.cpu().numpy()
    queries = embedding_ND[:20] + 0.05
    unit_ND, unit_QD = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (embedding_ND, queries))
    third = [
        np.sort(np.linalg.norm(unit_ND[experts_N == expert] - query, axis=1))[2]
        for query, expert in zip(unit_QD, experts_N[:20], strict=True)
    ]
    np.testing.assert_allclose(loaded.knn.score(queries, experts_N[:20]), -np.array(third), atol=1e-4)
    assert DetectorInfo.read(detector.detector).bank_sizes == tuple(np.bincount(experts_N))


def test_thresholds_keep_the_validation_images(detector: SimpleNamespace) -> None:
    loaded = load_detector(detector.detector)
    shards = ImageShards(detector.images)
    held = np.flatnonzero(validation_mask(shards.labels_N, 0.05, 0))
    scores = loaded.score([decode(shards.image(i)[0]) for i in held])
    for name, values in scores.values.items():
        assert (values >= loaded.thresholds[name] - 1e-3).mean() >= 0.95
        np.testing.assert_allclose(loaded.calibration[name].to_numpy(), values, atol=1e-3)
    for name in loaded.calibration.column_names:
        ordered = np.sort(loaded.calibration[name].to_numpy())
        fewest = -(-95 * len(held) // 100)  # images that are 95 % of them
        assert loaded.thresholds[name] == ordered[len(held) - fewest], f"{name}: not the largest that keeps them"
    assert loaded.info.num_validation == len(held)
    assert loaded.calibration.schema == calibration_schema(loaded.thresholds)


def test_k_grows_with_the_training_set(detector: SimpleNamespace) -> None:
    assert load_detector(detector.detector).knn.k == 3
    index(detector.images, detector.features, detector.model, detector.detector, num_workers=0)
    assert load_detector(detector.detector).knn.k == 5
    assert (default_k(1_281_167), default_k(128_117), default_k(1)) == (1000, 100, 5)


def test_a_model_of_other_images_is_refused(detector: SimpleNamespace, make_images: Callable[..., str]) -> None:
    with pytest.raises(MofeError, match="was not trained on the images"):
        index(make_images("others"), detector.features, detector.model, detector.detector, num_workers=0)


def test_what_cannot_be_is_refused_before_an_image_is_embedded(
    detector: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mofe.stages.index.embed_shards", None)
    with pytest.raises(MofeError, match="knn_k = -1 must be at least 1, or 0"):
        index(detector.images, detector.features, detector.model, str(tmp_path / "out"), knn_k=-1)
    extract(detector.images, str(tmp_path / "features"), backbone="vit_tiny_patch16_224", backbone_args=TINY,
            weights="random", weights_digest="other", num_workers=0)  # fmt: skip
    with pytest.raises(MofeError, match="was not trained with the features"):
        index(detector.images, str(tmp_path / "features"), detector.model, str(tmp_path / "out"))


def test_a_global_bank_is_one_index_of_all_images(detector: SimpleNamespace) -> None:
    index(detector.images, detector.features, detector.model, detector.detector, knn_k=3, bank="global", num_workers=0)
    loaded = load_detector(detector.detector)
    assert loaded.info.bank == "global"
    assert [i.ntotal for i in loaded.knn.indexes] == [sum(loaded.info.bank_sizes)]
    with pytest.raises(MofeError, match="bank = 'local' is not one of"):
        index(detector.images, detector.features, detector.model, detector.detector, bank="local", num_workers=0)  # type: ignore[arg-type]
