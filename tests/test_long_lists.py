"""Lists of places that are too long for an argument."""

from pathlib import Path

import pytest
from PIL import Image

from mofe.data.place_lists import listed_places
from mofe.errors import MofeError
from mofe.parameters.long_lists import LONGEST, write_long_lists
from mofe.stages.fingerprint_batch import fingerprint_batch
from mofe.stages.list_files import list_files


def test_a_long_list_becomes_a_file_and_a_short_one_stays(tmp_path: Path) -> None:
    short = {"images": ["a", "b"], "shards": 2}
    assert write_long_lists(short, tmp_path) == short
    places = [f"s3://bucket/{'x' * 90}/{i}.png" for i in range(1000)]
    found = write_long_lists({"images": places, "shards": 2}, tmp_path)
    assert found["shards"] == 2
    (file,) = found["images"]
    assert len(file) < 300
    assert Path(file).is_absolute()
    assert list(listed_places([file])) == places
    assert write_long_lists({"images": places}, tmp_path)["images"] == [file], "the same list is the same file"
    assert write_long_lists({"images": places[1:]}, tmp_path)["images"] != [file]


def test_what_cannot_travel_is_refused_with_the_way_out(tmp_path: Path) -> None:
    places = ["x" * LONGEST]
    with pytest.raises(
        MofeError, match=r"images has 64,004 bytes, more than the 64,000 .* give the URI of a \.txt file"
    ):
        write_long_lists({"images": places}, None)
    with pytest.raises(MofeError, match=r"node_selector has .* shorten it"):
        write_long_lists({"node_selector": {"a": "x" * LONGEST}}, tmp_path)


def test_a_list_of_a_million_places_is_read(tmp_path: Path) -> None:
    (tmp_path / "many.txt").write_text("".join(f"/data/{i}.png\n" for i in range(1_000_000)))
    assert sum(1 for _ in listed_places([str(tmp_path / "many.txt"), "b"])) == 1_000_001


@pytest.mark.parametrize(
    ("content", "words"), [(b"", "is empty"), (b"\n \n", "is empty"), (b"\xff\xfe", "is not UTF-8 text")]
)
def test_lists_that_are_none(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "l.txt").write_bytes(content)
    with pytest.raises(MofeError, match=f"l.txt {words}"):
        list(listed_places([str(tmp_path / "l.txt")]))
    with pytest.raises(MofeError, match=r"there is no list of places at .*none\.txt"):
        list(listed_places([str(tmp_path / "none.txt")]))


def test_the_stages_of_a_batch_read_it(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        Image.new("RGB", (4, 4)).save(tmp_path / f"{name}.png")
    (tmp_path / "detector").mkdir()
    (tmp_path / "detector" / "detector.json").write_text("{}")
    (tmp_path / "l.txt").write_text(f"{tmp_path}/a.png\r\n\n{tmp_path}/b.png\n")
    images = [str(tmp_path / "l.txt"), str(tmp_path / "c.png")]
    before = fingerprint_batch(images, str(tmp_path / "detector"))
    assert list_files(images, str(tmp_path / "files"), shards=5) == [0, 1, 2]
    (tmp_path / "l.txt").write_text(f"{tmp_path}/a.png\n")
    assert fingerprint_batch(images, str(tmp_path / "detector")) != before
