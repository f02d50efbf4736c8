"""Files at URIs: on this machine, and on a real S3 server that is killed, lacks things, or refuses."""

from collections.abc import Callable
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import noise
from servers import Server, for_a_moment_dead

from mofe.errors import MofeError
from mofe.storage import locations, writing

MB = 2**20


def test_a_read_outlives_the_server(s3_bucket: str, mortal: Server) -> None:
    content = noise(48 * MB)
    path = locations.resolve(f"{s3_bucket}/large")
    writing.write_bytes(path, content)
    strike = for_a_moment_dead(mortal, after=0.15)
    read = locations.read_bytes(path, "file")
    strike.join()
    assert read == content


def test_a_nul_in_a_uri_is_named() -> None:
    with pytest.raises(MofeError, match="holds a NUL character"):
        locations.resolve("data\0")


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
    path = locations.resolve(f"{s3_bucket}/images-00000.parquet")
    fsspec.filesystem("s3").put_file(str(tmp_path / "shard"), path.path)
    fetched = []
    fetch = s3fs.core.S3File._fetch_range

    def counted(file: s3fs.core.S3File, start: int, end: int) -> bytes:
        fetched.append(end - start)
        return bytes(fetch(file, start, end))

    monkeypatch.setattr(s3fs.core.S3File, "_fetch_range", counted)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))  # nothing goes over this machine's disk
    with locations.open_parquet(path) as parquet:
        assert len(parquet.read(columns=["label"])) == 32
    assert sum(fetched) < MB / 4
    fetched.clear()
    with locations.open_parquet(path) as parquet:
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

    writing.write_bytes(locations.resolve(f"{s3_bucket}/there"), b"model")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    for name, value in change.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    path = locations.resolve(place.format(bucket=s3_bucket))
    expected = message.format(bucket=s3_bucket)
    with pytest.raises(MofeError, match=expected) as caught:
        locations.read_bytes(path, "model")
    assert "\n" not in str(caught.value)
    assert "canary" not in str(caught.value)
    uri = str(path)
    tries: list[Callable[[], object]] = [
        lambda: writing.write_bytes(path, b""),
        lambda: locations.children(path, "*"),
        lambda: locations.digest_of_listing(uri),
        lambda: locations.kind(path),
        lambda: locations.open_parquet(path).__enter__(),
    ]
    for attempt in tries[:4] if change else tries[4:]:
        with pytest.raises(MofeError, match=uri):
            attempt()


def test_the_region_is_read_from_either_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("s3fs")
    for name in ("AWS_DEFAULT_REGION", "AWS_REGION"):
        monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
        monkeypatch.setenv(name, "eu-north-1")
        store = locations.resolve("s3://bucket/x").fs
        store.clear_instance_cache()
        store = locations.resolve("s3://bucket/x").fs
        store.connect(refresh=True)
        assert store.s3.meta.region_name == "eu-north-1"


@pytest.mark.parametrize(
    ("uri", "library"),
    [("gs://bucket/x", "gcsfs"), ("az://container/x", "adlfs"), ("hf://datasets/a/b/x", "huggingface_hub")],
)
def test_other_stores_are_known(uri: str, library: str) -> None:
    pytest.importorskip(library)
    path = locations.resolve(uri)
    assert not locations.is_local(path)
    assert library in fsspec.get_filesystem_class(path.protocol).__module__


def test_a_local_file_by_its_uri(tmp_path: Path) -> None:
    path = locations.resolve((tmp_path / "file").as_uri())
    writing.write_bytes(path, b"content")
    assert locations.read_bytes(path, "file") == b"content"
    assert [file.name for file in tmp_path.iterdir()] == ["file"]
    with pytest.raises(MofeError, match=r"there is no model at .*/none$"):
        locations.read_bytes(path.parent / "none", "model")


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
        locations.check_uri(uri)
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
    locations.check_uri(uri)
