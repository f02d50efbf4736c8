"""merge_predictions: the shards together are what mofe detect says of everything."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers import command_line, striped

from mofe.artifacts.predictions import PredictionSet
from mofe.errors import MofeError
from mofe.stages.list_files import list_files
from mofe.stages.merge_predictions import merge_predictions
from mofe.stages.predict import predict

RNG = np.random.default_rng(7)


@pytest.fixture
def judged(detector: SimpleNamespace, tmp_path: Path) -> list[str]:
    """Three shards of ten files, of which two are no images."""
    (tmp_path / "new").mkdir()
    for i in range(10):
        (tmp_path / "new" / f"{i}.png").write_bytes(b"" if i in (2, 9) else striped(i % 4, RNG))
    shards = list_files([str(tmp_path / "new")], str(tmp_path / "files"), shards=3)
    places = [str(tmp_path / f"shard-{shard}") for shard in shards]
    for shard, place in zip(shards, places, strict=True):
        predict(str(tmp_path / "files"), detector.detector, place, shard=shard, neighbours=1)
    return places


def test_together_they_are_the_predictions_on_everything(
    judged: list[str], detector: SimpleNamespace, tmp_path: Path
) -> None:
    found = merge_predictions(judged[::-1], str(tmp_path / "all"), str(tmp_path / "counts.json"))
    together = pq.read_table(tmp_path / "all" / "predictions")
    one = tmp_path / "one.parquet"
    ask = ["--detector", detector.detector, str(tmp_path / "new"), "--neighbours", "1"]
    assert command_line("detect", *ask, "--format", "parquet", "--output", str(one)).code == 4
    expected = pq.read_table(one)
    assert together.schema.equals(expected.schema)
    for name in ("image", "known", "class", "expert"):
        assert together[name].to_pylist() == expected[name].to_pylist()
    np.testing.assert_allclose(together["score"], expected["score"], rtol=2e-2)  # bf16, other batches
    unreadable = pq.read_table(tmp_path / "all" / "unreadable").to_pylist()
    assert [(Path(row["image"]).name, row["reason"]) for row in unreadable] == [
        ("2.png", "the file is empty"),
        ("9.png", "the file is empty"),
    ]
    known = sum(expected["known"].to_pylist())
    assert found == {"known": known, "unknown": 8 - known, "unreadable": 2}
    info = PredictionSet.read(str(tmp_path / "all"))
    assert (info.shards, sum(info.known.values()), info.unreadable) == ((0, 1, 2), known, 2)
    assert json.loads((tmp_path / "counts.json").read_text()) == {**found, "known_by_class": info.known}


def test_a_missing_shard_is_noticed(judged: list[str], tmp_path: Path) -> None:
    with pytest.raises(MofeError, match=r"expected each shard from 0 to 1 once, found \[0, 2\]"):
        merge_predictions([judged[0], judged[2]], str(tmp_path / "all"), str(tmp_path / "counts.json"))
