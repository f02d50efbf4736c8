"""merge_scores: scores of shards, joined, are the scores of the whole set, byte for byte."""

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

import mofe.artifacts.scores
import mofe.stages.score as score_module
from mofe.artifacts.scores import ScoreTable
from mofe.errors import MofeError
from mofe.stages.index import index
from mofe.stages.merge_scores import merge_scores
from mofe.stages.score import score

OPTIONS = {"batch_size": 2, "num_workers": 0}
pytestmark = pytest.mark.usefixtures("groups_of_eight")


def parts_of(images: str, detector: str, folder: Path, shards: Sequence[int] = (0, 1, 2)) -> list[str]:
    places = [str(folder / f"part-{shard}") for shard in shards]
    for shard, place in zip(shards, places, strict=True):
        score(images, detector, place, shard=shard, shards=3, **OPTIONS)  # type: ignore[arg-type]
    return places


def assert_same(joined: Path, whole: Path) -> None:
    assert {file.name for file in joined.iterdir()} == {file.name for file in whole.iterdir()}
    for file in joined.iterdir():
        assert file.read_bytes() == (whole / file.name).read_bytes(), file.name


@pytest.mark.parametrize("role", ["test", "ood"])
def test_it_is_what_one_task_makes(
    detector: SimpleNamespace,
    make_images: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    role: str,
) -> None:
    monkeypatch.setattr(mofe.artifacts.scores, "SCORE_ROWS", 17)
    monkeypatch.setattr(score_module, "SAMPLE", 11)
    images = make_images("set", role, per_class=13, classes=(0, 1, 2, 3) if role == "test" else (0, 1, 5, 6))
    score(images, detector.detector, str(tmp_path / "whole"), **OPTIONS)  # type: ignore[arg-type]
    merge_scores(parts_of(images, detector.detector, tmp_path)[::-1], str(tmp_path / "joined"))
    assert_same(tmp_path / "joined", tmp_path / "whole")
    assert len(ScoreTable(tmp_path / "joined").info.scores) > 60


def test_without_comparison_too(
    detector: SimpleNamespace, make_images: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(score_module, "SAMPLE", 2)  # the shard in the middle has none of it
    plain = str(tmp_path / "plain")
    index(detector.images, detector.features, detector.model, plain, compare=False, knn_k=3, num_workers=0)
    images = make_images("set", "ood", per_class=9)
    score(images, plain, str(tmp_path / "whole"), **OPTIONS)  # type: ignore[arg-type]
    parts = parts_of(images, plain, tmp_path)
    merge_scores(parts, str(tmp_path / "joined"))
    assert_same(tmp_path / "joined", tmp_path / "whole")

    with pytest.raises(MofeError, match="hold the images 0 to 36 once each, found 0 to 16, 32 to 36"):
        merge_scores([parts[0], parts[2]], str(tmp_path / "again"))
    with pytest.raises(MofeError, match="found 0 to 16, 0 to 16, 16 to 32, 32 to 36"):
        merge_scores([parts[0], *parts], str(tmp_path / "again"))
    (other,) = parts_of(images, detector.detector, tmp_path / "other", [1])
    with pytest.raises(MofeError, match=r"other/part-1 and .*part-0 are not parts of the same whole"):
        merge_scores([parts[0], other, parts[2]], str(tmp_path / "again"))
    with pytest.raises(MofeError, match=r"there is no score table at .*part-0/scores\.json"):
        ScoreTable(parts[0])
    assert not (tmp_path / "again").exists()
