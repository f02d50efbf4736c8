"""Files at URIs: on this machine, and on a real S3 server that is killed, lacks things, or refuses."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from servers import Server
from upath import UPath

from mofe import storage
from mofe.artifacts.image_set import ImageSet
from mofe.artifacts.image_shards import ImageShards
from mofe.errors import MofeError
from mofe.sealed_json import sealed

MB = 2**20


def noise(size: int) -> bytes:
    return np.random.default_rng(0).bytes(size)


def for_a_moment_dead(server: Server, after: float) -> threading.Thread:
    """Kills the server after some seconds and starts it again; join the thread."""

    def strike() -> None:
        time.sleep(after)
        server.kill()
        time.sleep(1.5)
        server.start()

    thread = threading.Thread(target=strike)
    thread.start()
    return thread


def exists(uri: str) -> bool:
    store = fsspec.filesystem("s3")
    store.invalidate_cache()
    return bool(store.exists(uri))


def test_a_read_outlives_the_server(s3_bucket: str, mortal: Server) -> None:
    content = noise(48 * MB)
    path = storage.resolve(f"{s3_bucket}/large")
    storage.write_bytes(path, content)
    strike = for_a_moment_dead(mortal, after=0.15)
    read = storage.read_bytes(path, "file")
    strike.join()
    assert read == content


def test_a_write_outlives_the_server_and_is_never_seen_in_part(s3_bucket: str, mortal: Server) -> None:
    content = noise(60 * MB)
    path = storage.resolve(f"{s3_bucket}/large")
    strike = for_a_moment_dead(mortal, after=0.15)
    with storage.writing(path) as file:
        for start in range(0, len(content), 15 * MB):
            file.write(content[start : start + 15 * MB])
        strike.join()
        assert not exists(str(path))
    assert storage.read_bytes(path, "file") == content


def test_an_error_while_writing_leaves_what_was_there(s3_bucket: str) -> None:
    path = storage.resolve(f"{s3_bucket}/large")
    storage.write_bytes(path, b"old")
    with pytest.raises(ValueError, match="half-way"), storage.writing(path) as file:
        file.write(noise(60 * MB))
        raise ValueError("half-way")
    del file
    assert storage.read_bytes(path, "file") == b"old"
    store = fsspec.filesystem("s3")
    assert not store.list_multipart_uploads(s3_bucket.removeprefix("s3://"))


def test_an_artifact_replaces_an_older_one_whole(
    s3_bucket: str, make_images: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"{s3_bucket}/images"
    fsspec.filesystem("s3").put(make_images(per_class=12), uri, recursive=True)
    assert len(ImageShards(uri).files) == 3
    with pytest.raises(RuntimeError), storage.staged(uri) as folder:
        storage.write_bytes(folder / "images-00000.parquet", b"")
        raise RuntimeError
    with pytest.raises(MofeError, match=f"there is no image set at {uri}/dataset.json"):  # not a mixture of two
        ImageSet.read(uri)
    with pytest.raises(MofeError, match=f"{s3_bucket}/? is a whole bucket"), storage.staged(s3_bucket):
        pass
    assert exists(f"{uri}/images-00000.parquet")


def test_what_is_no_artifact_is_never_replaced(s3_bucket: str, tmp_path: Path) -> None:
    """A folder of one's own, as after --images and the name of the source; an artifact is, and one half written."""
    for place in (f"{s3_bucket}/mine", str(tmp_path / "mine")):
        mine = storage.resolve(place)
        storage.write_bytes(mine / "dog" / "1.png", b"photograph")
        storage.write_json(mine / "package.json", {"sha256": "none"})
        with pytest.raises(MofeError, match=f"{place} is not empty, and holds no artifact"), storage.staged(place):
            pass
        assert storage.names(mine) == ["dog/1.png", "package.json"]
    with pytest.raises(RuntimeError), storage.staged(f"{s3_bucket}/cut-off") as folder:
        storage.write_bytes(folder / "dog" / "1.png", b"photograph")
        raise RuntimeError
    for place in (f"{s3_bucket}/cut-off", str(tmp_path / "new"), str(tmp_path / "new")):
        write_artifact(storage.resolve(place), b"new")
        assert storage.names(storage.resolve(place)) == ["file", "manifest.json"]


def test_a_folder_made_in_a_console_is_empty(s3_bucket: str) -> None:
    fsspec.filesystem("s3").call_s3("put_object", Bucket=s3_bucket.removeprefix("s3://"), Key="new/", Body=b"")
    write_artifact(storage.resolve(f"{s3_bucket}/new"), b"new")
    assert "file" in storage.names(storage.resolve(f"{s3_bucket}/new"))


def test_a_writer_that_is_killed_while_it_removes_the_older_artifact_can_begin_again(
    s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = storage.resolve(f"{s3_bucket}/artifact")
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
    assert storage.names(place) == [storage.UNFINISHED, "file"]
    write_artifact(place, b"new")
    assert storage.names(place) == ["file", "manifest.json"]


def test_a_file_where_a_folder_should_be_and_a_folder_where_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(MofeError, match="file is a file: name a folder"), storage.staged(str(tmp_path / "file")):
        pass
    with pytest.raises(MofeError, match="is a folder: name a file"), storage.writing(storage.resolve(tmp_path)):
        pass


def test_a_nul_in_a_uri_is_named() -> None:
    with pytest.raises(MofeError, match="holds a NUL character"):
        storage.resolve("data\0")


def test_of_a_shard_only_what_is_needed_is_fetched(
    s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import s3fs

    images = pa.array(
        [{"bytes": noise(MB), "path": "a"}] * 32, pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    )
    pq.write_table(
        pa.table({"image": images, "label": [0] * 32}),
        tmp_path / "shard",
        row_group_size=4,
        compression="none",
        use_dictionary=False,
    )
    path = storage.resolve(f"{s3_bucket}/images-00000.parquet")
    fsspec.filesystem("s3").put_file(str(tmp_path / "shard"), path.path)
    fetched = []
    fetch = s3fs.core.S3File._fetch_range

    def counted(file: s3fs.core.S3File, start: int, end: int) -> bytes:
        fetched.append(end - start)
        return bytes(fetch(file, start, end))

    monkeypatch.setattr(s3fs.core.S3File, "_fetch_range", counted)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))  # nothing goes over this machine's disk
    with storage.open_parquet(path) as parquet:
        assert len(parquet.read(columns=["label"])) == 32
    assert sum(fetched) < MB / 4
    fetched.clear()
    with storage.open_parquet(path) as parquet:
        assert parquet.read_row_group(3).num_rows == 4
    assert 4 * MB <= sum(fetched) < 4.25 * MB


@pytest.mark.parametrize(
    ("change", "place", "message"),
    [
        ({}, "{bucket}/no/thing", r"^there is no model at {bucket}/no/thing$"),
        ({}, "s3://mofe-no-such-bucket/x",
         r"^there is no model at s3://mofe-no-such-bucket/x: .*bucket"),
        ({"AWS_SECRET_ACCESS_KEY": "canary"}, "{bucket}/there",
         r"^the store refuses access to the model at {bucket}/there: "),
        ({"AWS_ACCESS_KEY_ID": "nobody"}, "{bucket}/there",
         r"^the store refuses .* check the credentials in the env.*AWS_ACC"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "{bucket}/there",
         r"^cannot access the model at {bucket}/there: .*:9.*; gave up after \d+ s and 2 attempts of each request"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_one_line_with_the_uri(
    s3_bucket: str, monkeypatch: pytest.MonkeyPatch, change: dict[str, str], place: str, message: str
) -> None:
    import s3fs

    storage.write_bytes(storage.resolve(f"{s3_bucket}/there"), b"model")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    for name, value in change.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    path = storage.resolve(place.format(bucket=s3_bucket))
    expected = message.format(bucket=s3_bucket)
    with pytest.raises(MofeError, match=expected) as caught:
        storage.read_bytes(path, "model")
    assert "\n" not in str(caught.value)
    assert "canary" not in str(caught.value)
    uri = str(path)
    tries: list[Callable[[], object]] = [
        lambda: storage.write_bytes(path, b""),
        lambda: storage.children(path, "*"),
        lambda: storage.digest_of_listing(uri),
        lambda: storage.kind(path),
        lambda: storage.open_parquet(path).__enter__(),
    ]
    for attempt in tries[:4] if change else tries[4:]:
        with pytest.raises(MofeError, match=uri):
            attempt()


def test_the_region_is_read_from_either_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("s3fs")
    for name in ("AWS_DEFAULT_REGION", "AWS_REGION"):
        monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
        monkeypatch.setenv(name, "eu-north-1")
        store = storage.resolve("s3://bucket/x").fs
        store.clear_instance_cache()
        store = storage.resolve("s3://bucket/x").fs
        store.connect(refresh=True)
        assert store.s3.meta.region_name == "eu-north-1"


@pytest.mark.parametrize(
    ("uri", "library"),
    [("gs://bucket/x", "gcsfs"), ("az://container/x", "adlfs"), ("hf://datasets/a/b/x", "huggingface_hub")],
)
def test_other_stores_are_known(uri: str, library: str) -> None:
    pytest.importorskip(library)
    path = storage.resolve(uri)
    assert not storage.is_local(path)
    assert library in fsspec.get_filesystem_class(path.protocol).__module__


def test_a_local_file_by_its_uri(tmp_path: Path) -> None:
    path = storage.resolve((tmp_path / "file").as_uri())
    storage.write_bytes(path, b"content")
    assert storage.read_bytes(path, "file") == b"content"
    assert [file.name for file in tmp_path.iterdir()] == ["file"]
    with pytest.raises(MofeError, match=r"there is no model at .*/none$"):
        storage.read_bytes(path.parent / "none", "model")


KILLED = """
import os, signal, sys
from mofe import storage
{how}
"""
HALF_WAY = """
with storage.staged(sys.argv[1]) as folder, storage.writing(folder / "file") as file:
    file.write(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
IN_A_FILE = """
with storage.writing(storage.resolve(sys.argv[1])) as file:
    os.kill(os.getpid(), signal.SIGKILL)
"""
BETWEEN_TWO_RENAMES = """
from pathlib import Path
Path.rename = lambda path, to, rename=Path.rename: (rename(path, to), os.kill(os.getpid(), signal.SIGKILL))
with storage.staged(sys.argv[1]) as folder:
    storage.write_bytes(folder / "file", b"new")
"""


def write_artifact(place: Path | UPath, content: bytes) -> None:
    with storage.staged(str(place)) as folder:
        storage.write_bytes(folder / "file", content)
        storage.write_bytes(folder / "manifest.json", sealed({}))


def killed(how: str, place: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED.format(how=how), str(place)])
    assert done.returncode == -signal.SIGKILL
    left = [left for left in place.parent.iterdir() if left.name.startswith(f".{place.name}.")]
    assert left
    for one in left:
        os.utime(one, (0, 0))


def test_what_a_killed_writer_left_goes_with_the_next(tmp_path: Path) -> None:
    artifact = tmp_path / "artifact[1]"
    killed(HALF_WAY, artifact)
    write_artifact(artifact, b"old")
    killed(HALF_WAY, artifact)
    write_artifact(artifact, b"new")
    file = storage.resolve(tmp_path / "file")
    killed(IN_A_FILE, Path(file.path))
    storage.write_bytes(file, b"content")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["artifact[1]", "file"]
    assert (artifact / "file").read_bytes() == b"new"


def test_what_a_killed_writer_had_put_aside_comes_back(tmp_path: Path) -> None:
    artifact = tmp_path / "artifact"
    write_artifact(artifact, b"old")
    killed(BETWEEN_TWO_RENAMES, artifact)
    assert not artifact.exists()
    with pytest.raises(RuntimeError), storage.staged(str(artifact)):
        raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == ["artifact"]
    assert (artifact / "file").read_bytes() == b"old"


def test_what_a_living_writer_has_is_left_alone(tmp_path: Path) -> None:
    artifact, file = tmp_path / "artifact", storage.resolve(tmp_path / "file")
    with storage.staged(str(artifact)) as folder, storage.writing(file) as stream:
        storage.write_bytes(folder / "file", b"slow")
        stream.write(b"slow")
        write_artifact(artifact, b"quick")
        storage.write_bytes(file, b"quick")
    assert (artifact / "file").read_bytes() == storage.read_bytes(file, "file") == b"slow"
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("uri", "rest"),
    [
        ("https://hf_canary@host/x.tar", "https://host/x.tar"),
        ("https://u:canary@host:8080/a.tar", "https://host:8080/a.tar"),
        ("https://u:can@ary@host/a@b.tar", "https://host/a@b.tar"),
        ("s3://AKIA:can/ary@bucket/x", "s3://bucket/x"),
        ("HTTPS://canary@host/x.tar", "HTTPS://host/x.tar"),
        ("tar://a::https://canary@host/x.tar", "tar://a::https://host/x.tar"),
        ("postgresql://u:1234canary@host/x", "postgresql://host/x"),
    ],
)
def test_a_secret_in_a_uri_is_refused_and_not_shown(uri: str, rest: str) -> None:
    with pytest.raises(MofeError, match="given with a user name and password, or a token") as refused:
        storage.check_uri(uri)
    assert str(refused.value).startswith(f"{rest} was given")


@pytest.mark.parametrize(
    "uri",
    [
        "abfs://container@account.dfs.core.windows.net/x", "sftp://user@host:22/a@b", "hdfs://user@host/x",
        "hf://datasets/a/b@main/x", "github://owner:repository@main/x", "git://path:repository@main/x",
        "https://host:8080/a@b", "https://host/a:b@c", "s3://bucket/a:b@c.png", "file:///data/a:b@c.png",
        "zip://*.png::file:///data/a@b.zip", "tar://::file:///data/a@b.tar", "s3://arn:aws:s3:r:1:accesspoint/a/b@c",
    ],
)  # fmt: skip
def test_a_uri_without_a_secret_passes(uri: str) -> None:
    storage.check_uri(uri)
