"""Errors name the file that failed, and no other."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from upath import UPath

from mofe.data.loader import batches
from mofe.data.shared_memory import shared_memory_named
from mofe.errors import MofeError
from mofe.storage import locations, writing

NO_SPACE = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture(params=["local", "remote"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> UPath:
    return UPath(tmp_path / "blame") if request.param == "local" else UPath(f"memory://blame/{tmp_path.name}")


def test_what_the_block_raises_is_not_blamed_on_the_file(place: UPath) -> None:
    for opened in (writing.file(place / "file"), writing.staged(place / "folder")):
        with pytest.raises(OSError, match="No space left") as raised, opened:
            raise NO_SPACE
        assert raised.value is NO_SPACE
    writing.write_bytes(place / "file", b"content")
    table = pa.table({"a": [1, 2]})
    with writing.file(place / "t.parquet") as stream:
        pq.write_table(table, stream)
    for opened in (locations.reading(place / "file", "file"), locations.open_parquet(place / "t.parquet")):
        with pytest.raises(OSError, match="No space left") as raised, opened:
            raise NO_SPACE
        assert raised.value is NO_SPACE
    with pytest.raises(pa.ArrowInvalid, match="mine"), locations.open_parquet(place / "t.parquet"):
        raise pa.ArrowInvalid("mine")


def test_what_the_file_raises_is(place: UPath, monkeypatch: pytest.MonkeyPatch) -> None:
    writing.write_bytes(place / "file", b"content")

    class Broken:
        def read(self, size: int = -1) -> bytes:
            raise OSError(errno.EIO, "Input/output error")

        write = read

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(type(place.fs), "open", lambda *_, **__: Broken())
    with (
        pytest.raises(MofeError, match=r"cannot access the list at .*file: .*Input/output error"),
        locations.reading(place / "file", "list") as file,
    ):
        file.read()
    if not locations.is_local(place):
        with (
            pytest.raises(MofeError, match=r"cannot access the file at .*new: .*Input/output error"),
            writing.file(place / "new") as file,
        ):
            file.write(b"x")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux")
def test_a_full_disk_is_told_of_the_file_that_met_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Path.open

    def full(path: Path, *mode: str) -> Any:
        path.touch()
        return opened(Path("/dev/full") if ".partial-" in path.name else path, *mode)

    monkeypatch.setattr(Path, "open", full)
    for size in (10, 1 << 20):  # met when it is closed, and when it is written
        with (
            pytest.raises(MofeError, match=r"cannot access the file at .*/features: .*No space left"),
            writing.file(UPath(tmp_path / "features")) as file,
        ):
            file.write(bytes(size))


def test_pages_are_read_under_the_files_name(tmp_path: Path) -> None:
    file = tmp_path / "t.parquet"
    pq.write_table(pa.table({"a": np.random.default_rng(0).integers(0, 9, 50_000)}), file, write_page_checksum=True)
    content = bytearray(file.read_bytes())
    content[200:260] = bytes(60)
    file.write_bytes(content)
    with locations.open_parquet(UPath(file)) as parquet:
        assert parquet.metadata.num_rows == 50_000
        with pytest.raises(MofeError, match=r"t\.parquet"):
            parquet.read()
        with pytest.raises(MofeError, match=r"t\.parquet"):
            list(parquet.iter_batches())


WORDS = [
    OSError(errno.EROFS, "Read-only file system"),
    RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)"),
    RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that …"),
]


@pytest.mark.parametrize("error", WORDS)
def test_shared_memory_is_named_with_what_to_do(error: Exception) -> None:
    with (
        pytest.raises(MofeError, match=r"2 loader processes cannot share memory .*/dev/shm.*num_workers=0"),
        shared_memory_named(2),
    ):
        raise error
    with pytest.raises(type(error)) as raised, shared_memory_named(0):
        raise error
    assert raised.value is error


@pytest.mark.parametrize(
    "error", [RuntimeError("CUDA error"), OSError("Caught OSError in DataLoader worker process 0."), ValueError("shm")]
)
def test_other_errors_of_loaders_pass(error: Exception) -> None:
    with pytest.raises(type(error)) as raised, shared_memory_named(2):
        raise error
    assert raised.value is error


def test_a_loader_tells_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_lock(*_: object, **__: object) -> Iterator[None]:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("torch.utils.data.DataLoader.__iter__", no_lock)
    data: Any = torch.utils.data.TensorDataset(torch.zeros(4))
    with pytest.raises(MofeError, match="num_workers=0"):
        list(batches(data, np.arange(4), batch_size=2, num_workers=2))
