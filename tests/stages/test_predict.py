"""predict: a shard's predictions are those of mofe.inference.detect on its files."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers import striped

from mofe import load_detector
from mofe.artifacts.predictions import PredictionSet
from mofe.errors import MofeError
from mofe.inference.detect import detect
from mofe.inference.predictions import SCHEMA, Prediction, Unreadable, row_of
from mofe.stages.list_files import list_files
from mofe.stages.predict import predict

RNG = np.random.default_rng(6)


@pytest.fixture
def new(tmp_path: Path) -> Path:
    """Six files, the last of them no image; a name with a star is a glob that matches another file, too."""
    place = tmp_path / "new"
    place.mkdir()
    for i, name in enumerate(["0", "1", "2", "3*", "3*4"]):
        (place / f"{name}.png").write_bytes(striped(i % 4, RNG))
    (place / "5.png").write_bytes(b"no image")
    return place


def test_a_shard_is_what_detect_says_of_its_files(detector: SimpleNamespace, new: Path, tmp_path: Path) -> None:
    options = {"threshold": "tpr=0.5", "score": "msp", "neighbours": 2}
    files, predictions = str(tmp_path / "files"), str(tmp_path / "predictions")
    list_files([str(new)], files, digest="d", shards=2)
    predict(files, detector.detector, predictions, shard=1.0, batch_size=2, **options)  # type: ignore[arg-type]
    names = [str(new / "3*.png"), str(new / "3*4.png"), str(new / "5.png")]
    everything = list(detect(load_detector(detector.detector), [str(new)], batch_size=3, **options))  # type: ignore[arg-type]
    expected = [prediction for prediction in everything if prediction.image in names]
    good = [prediction for prediction in expected if isinstance(prediction, Prediction)]
    table = pq.read_table(tmp_path / "predictions" / "predictions" / "00001.parquet")
    assert table.schema.equals(SCHEMA)
    assert table["image"].to_pylist() == names[:2]
    for name in ("known", "class", "expert"):
        assert table[name].to_pylist() == [row_of(prediction)[name] for prediction in good]
    np.testing.assert_allclose(table["score"], [prediction.score for prediction in good], rtol=2e-2)
    assert [len(near) for near in table["neighbours"].to_pylist()] == [2, 2]
    (bad,) = pq.read_table(tmp_path / "predictions" / "unreadable" / "00001.parquet").to_pylist()
    assert Unreadable(**bad) in expected
    info = PredictionSet.read(predictions)
    assert (info.shards, info.digest, info.unreadable) == ((1,), "d", 1)
    assert info.known == {name: sum(v.known for v in good if v.class_name == name) for name in info.known}
    assert sum(info.known.values()) + info.unknown == 2


def test_a_failure_leaves_nothing(detector: SimpleNamespace, new: Path, tmp_path: Path) -> None:
    files = str(tmp_path / "files")
    list_files([str(new)], files, shards=1)
    with pytest.raises(MofeError, match="has no score 'odin'"):
        predict(files, detector.detector, str(tmp_path / "predictions"), shard=0, score="odin")
    assert not (tmp_path / "predictions").exists()
