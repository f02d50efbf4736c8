"""Which data a URI means: where it could mean two things, one is chosen by its name, or the error names both."""

import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import striped

from mofe.data.listing import list_images
from mofe.data.read_ahead import read_ahead
from mofe.data.sources import open_source
from mofe.data.splits import split_of
from mofe.errors import MofeError
from mofe.stages.fingerprint import fingerprint
from mofe.stages.list_files import list_files
from mofe.storage import locations

PNG = striped(0, np.random.default_rng(0))


def write(root: Path, *names: str, content: bytes = PNG) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def table(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [{"bytes": PNG, "path": f"{path.stem}-{i}.png"} for i in range(2)]
    pq.write_table(pa.table({"image": images, "label": [0, 1]}), path)


def archive(path: Path, folder: Path) -> Path:
    with tarfile.open(path, "w") as tar:
        tar.add(folder, ".")
    return path


def paths(uri: object, labelled: bool = True) -> list[str]:
    return sorted(image.path for image in open_source(str(uri), labelled=labelled).images())


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train-00000-of-00002.parquet", "train"), ("validation-00000-of-00001.parquet", "validation"),
        ("test.parquet", "test"), ("pets_val_3.tar", "validation"), ("dev-1.tar", "validation"), ("TRAIN.tar", "train"),
        ("sketches-00000-of-00003.parquet", "sketches"), ("00000.tar", ""), ("latest.tar", ""), ("trains.tar", ""),
        ("contest-1.tar", ""),
    ],
)  # fmt: skip
def test_splits_are_told_by_the_words_of_hugging_face(name: str, split: str) -> None:
    assert split_of(name) == split


def test_splits_side_by_side_must_be_chosen(tmp_path: Path) -> None:
    for split in ("train", "validation", "test"):
        table(tmp_path / f"{split}-00000-of-00001.parquet")
    for uri in (tmp_path, f"{tmp_path}/*.parquet"):
        for labelled in (True, False):
            with pytest.raises(MofeError, match=r"several splits: test \(test-.*train \(.*validation.*#train"):
                open_source(str(uri), labelled=labelled)
    for uri in (f"{tmp_path}#train", f"{tmp_path}/train-*", f"{tmp_path}/*.parquet#train"):
        assert {path.split("-")[0] for path in paths(uri)} == {"train"}
    assert {path.split("-")[0] for path in paths(f"{tmp_path}#val")} == {"validation"}
    with pytest.raises(MofeError, match=r"there is no split holdout; there are test"):
        open_source(f"{tmp_path}#holdout")
    (tmp_path / "more.parquet").write_bytes((tmp_path / "test-00000-of-00001.parquet").read_bytes())
    with pytest.raises(MofeError, match=r"none \(more\.parquet\)"):
        open_source(str(tmp_path))


def test_folders_of_splits_must_be_chosen_where_folders_are_classes(tmp_path: Path) -> None:
    write(tmp_path, *(f"{s}/{c}/{i}.png" for s in ("train", "val") for c in ("cat", "dog") for i in range(2)))
    with pytest.raises(MofeError, match=r"holds the splits train, val: choose one, as in .*#train"):
        open_source(str(tmp_path))
    assert open_source(f"{tmp_path}#train").classes == ("cat", "dog")
    assert len(paths(f"{tmp_path}#validation")) == 4
    loose = open_source(str(tmp_path), labelled=False)
    assert (loose.total, "all are taken" in loose.notes[0]) == (8, True)
    write(tmp_path, "bus/1.png")
    assert open_source(str(tmp_path)).classes == ("bus", "train", "val"), "a train is also a vehicle"


def test_a_folder_whose_name_holds_the_signs_of_a_choice(tmp_path: Path) -> None:
    for name in ("a#train", "b*c", "d[1]", "e?"):
        write(tmp_path / name, "cat/1.png", "dog/1.png")
        assert paths(tmp_path / name) == ["cat/1.png", "dog/1.png"]


def test_what_lies_beside_archives_and_tables(tmp_path: Path) -> None:
    classes = write(tmp_path / "classes", "cat/1.png", "dog/1.png")
    both = write(tmp_path / "both", "cat/1.png", "dog/1.png", "README", content=PNG)
    archive(both / "old.tar", classes)
    for labelled in (True, False):
        with pytest.raises(MofeError, match=r"both holds old\.tar and the folder cat"):
            open_source(str(both), labelled=labelled)
    table(tmp_path / "kinds" / "a.parquet")
    archive(tmp_path / "kinds" / "b.tar", classes)
    with pytest.raises(MofeError, match=r"tar archives \(b\.tar\) and Parquet files \(a\.parquet\)"):
        open_source(str(tmp_path / "kinds"))
    write(tmp_path / "flat", "1.png")
    table(tmp_path / "flat" / "a.parquet")
    with pytest.raises(MofeError, match=r"holds a\.parquet and the image 1\.png"):
        open_source(str(tmp_path / "flat"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.zip", b"PK\x03\x04rest", r"a\.zip is a zip archive: give it as zip://::file://"),
        ("a", b"<!DOCTYPE html><html>", "a is a web page: a web server has no folders"),
        ("a.jsonl", b'{"file": 1}', "a.jsonl is a text file: expected a folder"),
        ("a.7z", b"7z\xbc\xaf\x27\x1c\0", "is a 7z archive"),
        ("a.png", PNG, r"is one image \(PNG\)"),
        ("a.bin", b"\x00\x01\x02", "is a file of an unknown kind"),
    ],
)
def test_a_file_that_is_there_is_called_what_it_is(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    write(tmp_path, name, content=content)
    with pytest.raises(MofeError, match=message):
        open_source(str(tmp_path / name))


@pytest.mark.parametrize("store", ["zip", "tar"])
def test_a_chain_into_a_file_that_is_no_archive(tmp_path: Path, store: str) -> None:
    write(tmp_path, "a", content=b"no archive" * 100)
    with pytest.raises(MofeError, match=f"cannot open {store}://"):
        open_source(f"{store}://::file://{tmp_path}/a")
    with pytest.raises(MofeError, match="there is no"):
        open_source(f"{store}://::file://{tmp_path}/none")


def test_suffixes_in_capitals_and_tabs_and_none(tmp_path: Path) -> None:
    write(tmp_path, "i/cat/1.png", "i/dog/1.png")
    for name, sign in (("A.CSV", ","), ("b.tsv", "\t")):
        (tmp_path / name).write_text(f"path{sign}label\ni/cat/1.png{sign}x\ni/dog/1.png{sign}y\n")
        assert open_source(str(tmp_path / name)).classes == ("x", "y")
    table(tmp_path / "C.PARQUET")
    table(tmp_path / "suffixless")
    assert len(paths(tmp_path / "C.PARQUET")) == len(paths(tmp_path / "suffixless")) == 2
    archive(tmp_path / "tarred", tmp_path / "i")
    assert open_source(str(tmp_path / "tarred")).classes == ("cat", "dog")


@pytest.mark.parametrize("header", ["path, label", "path,Label", "path,class"])
def test_a_table_without_labels_says_which_columns_it_has(tmp_path: Path, header: str) -> None:
    from mofe.stages.prepare import prepare

    (tmp_path / "set.csv").write_text(f"{header}\na.png,x\n")
    second = header.split(",")[1]
    shown = repr(second) if " " in second else second
    with pytest.raises(MofeError, match=rf"no labels \(its columns are path,{shown}, expected path,label\)"):
        prepare(str(tmp_path / "set.csv"), str(tmp_path / "out"), name="x", role="train")


def test_a_glob_of_images_says_what_it_matches(tmp_path: Path) -> None:
    write(tmp_path, "cat/1.png", "dog/1.png")
    with pytest.raises(MofeError, match=r"matches 2 files, such as 1\.png: a glob names tar archives"):
        open_source(f"{tmp_path}/*/*.png")
    with pytest.raises(MofeError, match="nothing matches"):
        open_source(f"{tmp_path}/*.gif")


def test_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path, "data/cat/1.png", "data/dog/1.png")
    assert open_source("~/data").classes == ("cat", "dog")
    (tmp_path / "set.csv").write_text("path,label\n~/data/cat/1.png,x\n")
    assert next(open_source("~/set.csv").images()).read() == PNG
    with pytest.raises(MofeError, match="~nobody-of-this-name/data begins with ~, but there is no such home"):
        locations.resolve("~nobody-of-this-name/data")


def test_the_digest_is_of_the_chosen_split_alone(tmp_path: Path) -> None:
    for split in ("train", "test"):
        table(tmp_path / f"{split}.parquet")
    write(tmp_path / "ood", "1.png")

    def digests() -> tuple[str, str]:
        ood = [{"dataset": "x", "uri": str(tmp_path / "ood")}]
        found = fingerprint(f"{tmp_path}#train", f"{tmp_path}#test", ood)
        return found.train, found.test

    before = digests()
    pq.write_table(pq.read_table(tmp_path / "test.parquet").slice(1), tmp_path / "test.parquet")
    after = digests()
    assert (after[0] == before[0], after[1] == before[1]) == (True, False)


def test_new_images_may_lie_in_folders_of_archives_and_tables(tmp_path: Path) -> None:
    table(tmp_path / "new" / "deep" / "a.parquet")
    archive(tmp_path / "new" / "b.tar", write(tmp_path / "c", "1.png", "notes.txt"))
    write(tmp_path / "new", "2.jfif", "noext")
    write(tmp_path / "new", "notes.txt", content=b"text")
    read = list(read_ahead(list_images([str(tmp_path / "new")]), bytes, ahead=4))
    found = {Path(one.image.path).name: one.passed_over for one in read}
    images = ("a-0.png", "a-1.png", "1.png", "2.jfif", "noext")
    assert found == {**dict.fromkeys(images, False), "notes.txt": True}
    assert list_files([str(tmp_path / "new")], str(tmp_path / "files"), shards=2) == [0, 1]
