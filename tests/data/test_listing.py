"""Images without labels, wherever they lie."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import striped

from mofe.data.listing import list_images
from mofe.data.read_ahead import read_ahead
from mofe.errors import MofeError

PNG = striped(0, np.random.default_rng(0))


def names(*places: str) -> list[str]:
    found = [read for read in read_ahead(list_images(places), bytes, ahead=4) if not read.passed_over]
    assert all(read.content == PNG for read in found)
    return [Path(read.image.path).name for read in found]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.png", "a.PNG", "deep/er/c.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(PNG)
    (tmp_path / "notes.txt").write_text("no image")
    return tmp_path


def test_folders_globs_and_files(folder: Path) -> None:
    assert names(str(folder)) == ["a.PNG", "b.png", "c.jpg"]
    assert names(f"{folder}/*.png", f"{folder}/deep/er/c.jpg") == ["b.png", "c.jpg"]
    assert names(f"{folder}/**/*.jpg") == ["c.jpg"]
    assert names(folder.as_uri() + "/b.png") == ["b.png"]


def test_a_link_to_a_folder_is_listed_with_its_reason(folder: Path) -> None:
    (folder / "more").symlink_to(folder / "deep")
    linked = next(image for image in list_images([str(folder)]) if image.path == f"{folder}/more")
    with pytest.raises(ValueError, match="a link to a folder"):
        linked.read()


def test_a_file_is_taken_whatever_its_name(folder: Path) -> None:
    (image,) = list_images([f"{folder}/notes.txt"])
    assert image.read() == b"no image"


def test_parquet(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [{"bytes": PNG, "path": f"{i}.png"} for i in range(3)]}), tmp_path / "x.parquet")
    assert names(f"{tmp_path}/x.parquet") == ["0.png", "1.png", "2.png"]


@pytest.mark.parametrize(
    ("place", "message"),
    [("nothing.png", "there is nothing at"), ("*.webp", "nothing matches"), ("empty", "there are no images under")],
)
def test_a_place_with_nothing_is_an_error(folder: Path, place: str, message: str) -> None:
    (folder / "empty").mkdir()
    with pytest.raises(MofeError, match=message):
        list(list_images([str(folder / place)]))
