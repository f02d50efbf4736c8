"""list_files: every file once, in order, in shards of as many files each."""

import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mofe.artifacts.predictions import FileList
from mofe.errors import MofeError
from mofe.stages.list_files import FILES, list_files


def groups(folder: Path) -> list[list[str]]:
    with pq.ParquetFile(folder / FILES) as table:
        read = [table.read_row_group(i)["file"].to_pylist() for i in range(table.num_row_groups)]
    return [[Path(name).name for name in names] for names in read]


@settings(max_examples=25, deadline=None)
@given(files=st.integers(1, 12), shards=st.integers(1, 15))
def test_shards_are_a_partition_in_order(tmp_path_factory: pytest.TempPathFactory, files: int, shards: int) -> None:
    folder = tmp_path_factory.mktemp("list_files")
    (folder / "new").mkdir()
    for i in range(files):
        (folder / "new" / f"{i:02d}.png").touch()
    numbers = list_files([str(folder / "new")], str(folder / "files"), shards=shards)
    found = groups(folder / "files")
    assert numbers == list(range(min(files, shards))) == list(range(len(found)))
    assert [name for names in found for name in names] == [f"{i:02d}.png" for i in range(files)]
    assert max(map(len, found)) - min(map(len, found)) <= 1


def test_archives_and_tables_are_files(tmp_path: Path) -> None:
    for name in ("a.tar", "b.parquet", "c/d.png", "c/e.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    list_files([f"{tmp_path}/?.*", str(tmp_path / "c")], str(tmp_path / "files"), digest="of these", shards=2)
    assert groups(tmp_path / "files") == [["a.tar"], ["b.parquet", "d.png"]]
    info = FileList.read(str(tmp_path / "files"))
    assert (info.num_files, info.shards, info.digest) == (3, 2, "of these")


def test_what_cannot_be_divided_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MofeError, match="shards = 0 must be at least 1"):
        list_files([str(tmp_path)], str(tmp_path / "files"), shards=0)
    with pytest.raises(MofeError, match="there are no images under"):
        list_files([str(tmp_path)], str(tmp_path / "files"))
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png")).touch()
    with pytest.raises(MofeError, match=r"udcff\.png' is not UTF-8"):
        list_files([str(tmp_path)], str(tmp_path / "files"))
    assert not (tmp_path / "files").exists()
