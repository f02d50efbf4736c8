"""What is written is whole or not there, wherever a writer is stopped; what is somebody else's stays."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest
from helpers import noise
from servers import Server, for_a_moment_dead
from upath import UPath

from mofe.artifacts.image_set import ImageSet
from mofe.artifacts.image_shards import ImageShards
from mofe.errors import MofeError
from mofe.storage import locations, writing
from mofe.storage.checksummed_json import with_checksum

MB = 2**20


def exists(uri: str) -> bool:
    store = fsspec.filesystem("s3")
    store.invalidate_cache()
    return bool(store.exists(uri))


def test_a_write_outlives_the_server_and_is_never_seen_in_part(s3_bucket: str, mortal: Server) -> None:
    content = noise(60 * MB)
    path = locations.resolve(f"{s3_bucket}/large")
    strike = for_a_moment_dead(mortal, after=0.15)
    with writing.file(path) as file:
        for start in range(0, len(content), 15 * MB):
            file.write(content[start : start + 15 * MB])
        strike.join()
        assert not exists(str(path))
    assert locations.read_bytes(path, "file") == content


def test_an_error_while_writing_leaves_what_was_there(s3_bucket: str) -> None:
    path = locations.resolve(f"{s3_bucket}/large")
    writing.write_bytes(path, b"old")
    with pytest.raises(ValueError, match="half-way"), writing.file(path) as file:
        file.write(noise(60 * MB))
        raise ValueError("half-way")
    del file
    assert locations.read_bytes(path, "file") == b"old"
    store = fsspec.filesystem("s3")
    assert not store.list_multipart_uploads(s3_bucket.removeprefix("s3://"))


def test_an_artifact_replaces_an_older_one_whole(
    s3_bucket: str, make_images: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"{s3_bucket}/images"
    fsspec.filesystem("s3").put(make_images(per_class=12), uri, recursive=True)
    assert len(ImageShards(uri).files) == 3
    with pytest.raises(RuntimeError), writing.staged(uri) as folder:
        writing.write_bytes(folder / "images-00000.parquet", b"")
        raise RuntimeError
    with pytest.raises(MofeError, match=f"there is no image set at {uri}/dataset.json"):  # not a mixture of two
        ImageSet.read(uri)
    with pytest.raises(MofeError, match=f"{s3_bucket}/? is a whole bucket"), writing.staged(s3_bucket):
        pass
    assert exists(f"{uri}/images-00000.parquet")


def test_what_is_no_artifact_is_never_replaced(s3_bucket: str, tmp_path: Path) -> None:
    """A folder of one's own, as after --images and the name of the source; an artifact is, and one half written."""
    for place in (f"{s3_bucket}/mine", str(tmp_path / "mine")):
        mine = locations.resolve(place)
        writing.write_bytes(mine / "dog" / "1.png", b"photograph")
        writing.write_json(mine / "package.json", {"sha256": "none"})
        with pytest.raises(MofeError, match=f"{place} is not empty, and holds no artifact"), writing.staged(place):
            pass
        assert locations.names(mine) == ["dog/1.png", "package.json"]
    with pytest.raises(RuntimeError), writing.staged(f"{s3_bucket}/cut-off") as folder:
        writing.write_bytes(folder / "dog" / "1.png", b"photograph")
        raise RuntimeError
    for place in (f"{s3_bucket}/cut-off", str(tmp_path / "new"), str(tmp_path / "new")):
        write_artifact(locations.resolve(place), b"new")
        assert locations.names(locations.resolve(place)) == ["file", "manifest.json"]


def test_a_folder_made_in_a_console_is_empty(s3_bucket: str) -> None:
    fsspec.filesystem("s3").call_s3("put_object", Bucket=s3_bucket.removeprefix("s3://"), Key="new/", Body=b"")
    write_artifact(locations.resolve(f"{s3_bucket}/new"), b"new")
    assert "file" in locations.names(locations.resolve(f"{s3_bucket}/new"))


@pytest.mark.integration
def test_a_writer_that_is_killed_while_it_removes_the_older_artifact_can_begin_again(
    s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = locations.resolve(f"{s3_bucket}/artifact")
    write_artifact(place, b"old")
    removed: list[object] = []

    def killed(paths: object) -> None:
        removed.append(paths)
        if len(removed) == 2:
            raise KeyboardInterrupt
        remove(paths)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        remove = place.fs.rm
        patched.setattr(place.fs, "rm", killed)
        write_artifact(place, b"new")
    assert locations.names(place) == [writing.UNFINISHED, "file"]
    write_artifact(place, b"new")
    assert locations.names(place) == ["file", "manifest.json"]


def test_a_file_where_a_folder_should_be_and_a_folder_where_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(MofeError, match="file is a file: name a folder"), writing.staged(str(tmp_path / "file")):
        pass
    with pytest.raises(MofeError, match="is a folder: name a file"), writing.file(locations.resolve(tmp_path)):
        pass


KILLED = """
import os, signal, sys
from mofe.storage import locations, writing
{how}
"""
HALF_WAY = """
with writing.staged(sys.argv[1]) as folder, writing.file(folder / "file") as file:
    file.write(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
IN_A_FILE = """
with writing.file(locations.resolve(sys.argv[1])) as file:
    os.kill(os.getpid(), signal.SIGKILL)
"""
BETWEEN_TWO_RENAMES = """
from pathlib import Path
Path.rename = lambda path, to, rename=Path.rename: (rename(path, to), os.kill(os.getpid(), signal.SIGKILL))
with writing.staged(sys.argv[1]) as folder:
    writing.write_bytes(folder / "file", b"new")
"""


def write_artifact(place: Path | UPath, content: bytes) -> None:
    with writing.staged(str(place)) as folder:
        writing.write_bytes(folder / "file", content)
        writing.write_bytes(folder / "manifest.json", with_checksum({}))


def killed(how: str, place: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED.format(how=how), str(place)])
    assert done.returncode == -signal.SIGKILL
    left = [left for left in place.parent.iterdir() if left.name.startswith(f".{place.name}.")]
    assert left
    for one in left:
        os.utime(one, (0, 0))


@pytest.mark.integration
def test_what_a_killed_writer_left_goes_with_the_next(tmp_path: Path) -> None:
    artifact = tmp_path / "artifact[1]"
    killed(HALF_WAY, artifact)
    write_artifact(artifact, b"old")
    killed(HALF_WAY, artifact)
    write_artifact(artifact, b"new")
    file = locations.resolve(tmp_path / "file")
    killed(IN_A_FILE, Path(file.path))
    writing.write_bytes(file, b"content")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["artifact[1]", "file"]
    assert (artifact / "file").read_bytes() == b"new"


@pytest.mark.integration
def test_what_a_killed_writer_had_put_aside_comes_back(tmp_path: Path) -> None:
    artifact = tmp_path / "artifact"
    write_artifact(artifact, b"old")
    killed(BETWEEN_TWO_RENAMES, artifact)
    assert not artifact.exists()
    with pytest.raises(RuntimeError), writing.staged(str(artifact)):
        raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == ["artifact"]
    assert (artifact / "file").read_bytes() == b"old"


def test_what_a_living_writer_has_is_left_alone(tmp_path: Path) -> None:
    artifact, file = tmp_path / "artifact", locations.resolve(tmp_path / "file")
    with writing.staged(str(artifact)) as folder, writing.file(file) as stream:
        writing.write_bytes(folder / "file", b"slow")
        stream.write(b"slow")
        write_artifact(artifact, b"quick")
        writing.write_bytes(file, b"quick")
    assert (artifact / "file").read_bytes() == locations.read_bytes(file, "file") == b"slow"
    assert len(list(tmp_path.iterdir())) == 2
