"""merge_features: features of shards, joined, are the features of all images at once, byte for byte."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from helpers import TINY

import mofe.artifacts.features
from mofe.artifacts.features import Features
from mofe.errors import MofeError
from mofe.stages.extract import extract
from mofe.stages.merge_features import merge_features

OPTIONS = {"backbone": "vit_tiny_patch16_224", "backbone_args": TINY, "weights": "random", "num_workers": 0}
pytestmark = pytest.mark.usefixtures("groups_of_eight")


def parts_of(images: str, folder: Path, shards: Sequence[int] = (0, 1, 2), **more: object) -> list[str]:
    places = [str(folder / f"part-{shard}") for shard in shards]
    for shard, place in zip(shards, places, strict=True):
        extract(images, place, shard=shard, shards=3, **{**OPTIONS, "batch_size": 2, **more})  # type: ignore[arg-type]
    return places


def test_it_is_what_one_task_makes(
    make_images: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # row groups end neither with batches nor with shards
    monkeypatch.setattr(mofe.artifacts.features, "FEATURE_ROWS", 13)
    images, whole, joined = make_images(), tmp_path / "whole", tmp_path / "joined"
    extract(images, str(whole), batch_size=2, **OPTIONS)  # type: ignore[arg-type]
    merge_features(parts_of(images, tmp_path)[::-1], str(joined))
    assert {file.name for file in joined.iterdir()} == {Features.TABLE, Features.PROTOTYPES, "features.json"}
    for file in joined.iterdir():
        assert file.read_bytes() == (whole / file.name).read_bytes(), file.name
    groups = pq.ParquetFile(joined / Features.TABLE).metadata
    assert [groups.row_group(i).num_rows for i in range(groups.num_row_groups)] == [13, 13, 13, 9]


def test_what_is_not_one_whole_is_refused(make_images: Callable[..., str], tmp_path: Path) -> None:
    one, two, three = parts_of(make_images(), tmp_path)
    (other,) = parts_of(make_images("other"), tmp_path / "other", [1])
    joined = str(tmp_path / "joined")
    with pytest.raises(MofeError, match="hold the images 0 to 48 once each, found 0 to 16, 32 to 48"):
        merge_features([one, three], joined)
    with pytest.raises(MofeError, match=r"hold the images 0 to 48 once each, found 0 to 16, 16 to 32$"):
        merge_features([two, one], joined)
    with pytest.raises(MofeError, match="found 0 to 16, 16 to 32, 16 to 32, 32 to 48"):
        merge_features([one, two, three, two], joined)
    with pytest.raises(MofeError, match=r"other/part-1 and .*part-0 are not parts of the same whole"):
        merge_features([one, other, three], joined)
    with pytest.raises(MofeError, match="expected at least one part of a whole, found none"):
        merge_features([], joined)
    with pytest.raises(MofeError, match=r"there is no feature set at .*part-0/features\.json"):
        Features(one)
    spoiled = bytearray((tmp_path / "part-1" / Features.SUMS).read_bytes())
    spoiled[len(spoiled) // 2] ^= 1
    (tmp_path / "part-1" / Features.SUMS).write_bytes(spoiled)
    with pytest.raises(MofeError, match=r"part-1/sums\.parquet is damaged"):
        merge_features([one, two, three], joined)
    assert not Path(joined).exists()
    shutil.rmtree(two)
    with pytest.raises(MofeError, match=r"there is no part of a feature set at .*part-1"):
        merge_features([one, two, three], joined)
