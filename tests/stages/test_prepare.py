"""prepare: shards that anyone can read, bad files set aside, unusable sets refused, constant memory."""

import json
import subprocess
import sys
from pathlib import Path

import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers import striped

from mofe.artifacts.image_set import ImageSet
from mofe.artifacts.image_shards import ImageShards
from mofe.errors import MofeError
from mofe.stages.prepare import prepare
from mofe.storage import locations


def write_images(root: Path, counts: dict[str, int]) -> Path:
    rng = np.random.default_rng(0)
    for label, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True)
        for i in range(count):
            (root / name / f"{i}.png").write_bytes(striped(label, rng))
    return root


def test_shards_are_hugging_face_parquet(tmp_path: Path) -> None:
    source = write_images(tmp_path / "in", {"cat": 70, "dog": 30})
    prepare(str(source), str(tmp_path / "out"), name="pets", role="train", digest="d1")
    files = sorted((tmp_path / "out").glob("*.parquet"))
    table = pq.read_table(files)
    assert str(table.schema.field("image").type) == "struct<bytes: binary, path: string>"
    names = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]["label"]["names"]
    assert names == ["cat", "dog"]
    for row in table.to_pylist():
        assert row["image"]["bytes"] == (source / row["image"]["path"]).read_bytes()
        assert names[row["label"]] == row["image"]["path"].split("/")[0]
    info = ImageSet.read(str(tmp_path / "out"))
    assert (info.counts, info.num_images, info.digest, info.num_rejected) == ((70, 30), 100, "d1", 0)


@pytest.mark.parametrize("place", ["in", "in/../in#train", "in/*.tar"])
def test_a_place_is_recorded_so_that_it_is_found_from_any_folder(
    tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert locations.recorded(place) == f"{tmp_path}/{place}"
    for uri in ("s3://bucket/in#train", f"file://{tmp_path}/in", "zip://::file:///a.zip"):
        assert locations.recorded(uri) == uri
    write_images(tmp_path / "in", {"cat": 3, "dog": 3})
    prepare("in", "out", name="pets", role="train")
    assert ImageSet.read("out").source == str(tmp_path / "in")


def test_from_and_to_an_object_store(tmp_path: Path) -> None:
    source = write_images(tmp_path / "in", {"cat": 3, "dog": 3})
    memory = fsspec.filesystem("memory")
    for file in source.rglob("*.png"):
        memory.pipe(f"/src/{file.relative_to(source)}", file.read_bytes())
    prepare("memory://src", "memory://dst/train", name="pets", role="train")
    shards = ImageShards("memory://dst/train")
    content, path, label = shards.image(4)
    assert content == (source / path).read_bytes()
    assert label == ("cat", "dog").index(path.split("/")[0])


def test_bad_files_are_set_aside_with_their_reason(tmp_path: Path) -> None:
    source = write_images(tmp_path / "in", {"cat": 60, "dog": 60})
    (source / "cat" / "broken.jpg").write_bytes(b"\xff\xd8 no")
    prepare(str(source), str(tmp_path / "out"), name="pets", role="train")
    info = ImageSet.read(str(tmp_path / "out"))
    assert [r.path for r in info.rejected] == ["cat/broken.jpg"]
    assert info.rejected[0].reason
    assert info.num_images == 120
    (source / "cat" / "empty.jpg").write_bytes(b"")
    with pytest.raises(MofeError, match=r"2 of 122 files .* unreadable, more than max_rejected = 0\.01.*broken"):
        prepare(str(source), str(tmp_path / "out2"), name="pets", role="train")
    assert not (tmp_path / "out2").exists()
    assert not list(tmp_path.glob(".*partial*"))


@pytest.mark.parametrize(
    ("counts", "role", "message"),
    [
        ({"cat": 5}, "train", "one class only, 'cat'"),
        ({"cat": 5, "dog": 1, "eel": 1}, "train", r"at least two images.*dog \(1\), eel \(1\)"),
    ],
)
def test_unusable_training_sets(tmp_path: Path, counts: dict[str, int], role: str, message: str) -> None:
    with pytest.raises(MofeError, match=message):
        prepare(str(write_images(tmp_path / "in", counts)), str(tmp_path / "out"), name="x", role=role)  # type: ignore[arg-type]


def test_roles_ask_for_what_they_need(tmp_path: Path) -> None:
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat" / "a.png").write_bytes(striped(0, np.random.default_rng(0)))
    prepare(str(tmp_path / "flat"), str(tmp_path / "out"), name="x", role="ood")
    assert ImageShards(str(tmp_path / "out")).labels_N.tolist() == [-1]
    with pytest.raises(MofeError, match="has no labels"):
        prepare(str(tmp_path / "flat"), str(tmp_path / "out"), name="x", role="test")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"role": "predict"}, "role"),
        ({"images_per_class": -1}, "images_per_class"),
        ({"max_rejected": 2.0}, "max_rejected"),
    ],
)
def test_bad_parameters(tmp_path: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(MofeError, match=message):
        prepare(str(tmp_path), str(tmp_path / "out"), **{"name": "x", "role": "ood", **options})  # type: ignore[arg-type]


MEMORY = """
import sys, tracemalloc
from pathlib import Path
import pyarrow as pa
import pyarrow.parquet as pq
from mofe.stages.prepare import prepare

folder, one = Path(sys.argv[1]), (Path(sys.argv[1]) / "one.png").read_bytes()

def peak(repeats):
    file = folder / f"{repeats}.parquet"
    table = pa.table({"image": [{"bytes": one, "path": "x"}] * 5000, "label": [0, 1] * 2500})
    with pq.ParquetWriter(file, table.schema) as writer:
        for _ in range(repeats):
            writer.write_table(table, row_group_size=100)
    tracemalloc.start()
    prepare(str(file), str(folder / f"out{repeats}"), name="x", role="train")
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return most

peak(1)  # imports
print(peak(3), peak(1), file=sys.stderr)
"""


@pytest.mark.integration
def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path) -> None:
    """15 000 images of 3 kB are 45 MB; only a window of them and a row group are held at once.

    In a process of its own, because threads of other tests would be counted.
    """
    (tmp_path / "one.png").write_bytes(striped(0, np.random.default_rng(0), size=32))
    done = subprocess.run([sys.executable, "-c", MEMORY, str(tmp_path)], capture_output=True, text=True, check=True)
    of_three, of_one = map(int, done.stderr.splitlines()[-1].split())
    assert of_three < 1.5 * of_one
