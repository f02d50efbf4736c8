"""A store behind a bad network: what is read and written is right or an error that says how long was waited."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from proxy import Proxy

from mofe.artifacts.image_shards import ImageShards
from mofe.errors import MofeError
from mofe.stages.prepare import prepare
from mofe.storage import locations, writing

CONTENT = np.random.default_rng(0).bytes(300)
PASSING = ["drop", "short", "slow", "500 InternalError", "503 SlowDown", "503 ServiceUnavailable"]


@pytest.fixture
def proxy(s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """In front of the server; clients speak to it from now on."""
    import os

    import s3fs

    between = Proxy(os.environ["AWS_ENDPOINT_URL"])
    with monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", between.address)
        s3fs.S3FileSystem.clear_instance_cache()
        yield between
    s3fs.S3FileSystem.clear_instance_cache()
    between.close()


@pytest.mark.parametrize("fault", PASSING)
def test_reading(s3_bucket: str, proxy: Proxy, fault: str) -> None:
    path = locations.resolve(f"{s3_bucket}/file")
    writing.write_bytes(path, CONTENT)
    proxy.fail(1, fault, "GET", "file")
    assert locations.read_bytes(path, "file") == CONTENT
    assert proxy.faults == 1
    proxy.fail(1, fault, "GET", "file")
    with locations.reading(path, "file") as file:
        assert file.read() == CONTENT
    assert proxy.faults == 2


@pytest.mark.parametrize("fault", [fault for fault in PASSING if fault not in ("short", "slow")])
def test_writing(s3_bucket: str, proxy: Proxy, fault: str) -> None:
    path = locations.resolve(f"{s3_bucket}/file")
    proxy.fail(1, fault, "PUT", "file")
    writing.write_bytes(path, CONTENT)
    assert (proxy.faults, locations.read_bytes(path, "file")) == (1, CONTENT)
    proxy.fail(1, fault, "PUT", "two")
    with writing.file(path.parent / "two") as file:
        file.write(CONTENT)
    assert (proxy.faults, locations.read_bytes(path.parent / "two", "file")) == (2, CONTENT)


def test_listing(s3_bucket: str, proxy: Proxy) -> None:
    writing.write_bytes(locations.resolve(f"{s3_bucket}/folder/file"), CONTENT)
    for fault in ("drop", "503 SlowDown"):
        proxy.fail(1, fault, "GET", "list-type")
        path = locations.resolve(f"{s3_bucket}/folder")
        path.fs.invalidate_cache()
        assert locations.names(path) == ["file"]
    assert proxy.faults == 2


@pytest.mark.parametrize("fault", ["drop", "503 SlowDown"])
def test_a_fault_that_stays_is_given_up_and_the_wait_is_said(
    s3_bucket: str, proxy: Proxy, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = locations.resolve(f"{s3_bucket}/file")
    writing.write_bytes(path, CONTENT)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    proxy.fail(10**6, fault, "GET", "file")
    with pytest.raises(MofeError, match=rf"{path}: .*gave up after \d+ s and 2 attempts of each request$"):
        locations.read_bytes(locations.resolve(f"{s3_bucket}/file"), "file")
    assert 2 <= proxy.faults <= 24, "bounded: the store's library and fsspec's each try again"


def test_a_store_that_hangs_is_not_waited_for_without_end(
    s3_bucket: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locations, "LONGEST_ANSWER", 1)
    path = locations.resolve(f"{s3_bucket}/file")
    writing.write_bytes(path, CONTENT)
    proxy.fail(1, "hang", "GET", "file")
    assert locations.read_bytes(path, "file") == CONTENT


def test_credentials_that_expire_in_the_middle_end_the_stage(
    s3_bucket: str, proxy: Proxy, make_images: Callable[..., str]
) -> None:
    """No image is blamed for it."""
    shards = ImageShards(make_images(per_class=5))
    for position in range(len(shards)):
        content, path, label = shards.image(position)
        writing.write_bytes(locations.resolve(f"{s3_bucket}/source/class{label}/{path.replace('/', '-')}"), content)
    left = [8]

    def plan(method: str, path: str) -> str:
        left[0] -= method == "GET" and ".png" in path
        return "400 ExpiredToken" if left[0] < 0 else ""

    proxy.plan = plan
    with pytest.raises(MofeError, match=r"refuses access to the image at .*as planned.* check the credentials"):
        prepare(f"{s3_bucket}/source", f"{s3_bucket}/images", name="a", role="train", max_rejected=1.0)
    proxy.plan = lambda method, path: ""
    assert not locations.kind(locations.resolve(f"{s3_bucket}/images/dataset.json"))


def test_a_whole_stage_over_a_bad_network(
    s3_bucket: str, proxy: Proxy, make_images: Callable[..., str], tmp_path: Path
) -> None:
    """Every tenth request goes wrong, each time in another way; what is made is what a good network makes."""
    local = Path(make_images(per_class=10))
    for file in local.iterdir():
        writing.write_bytes(locations.resolve(f"{s3_bucket}/source/{file.name}"), file.read_bytes())
    prepare(f"{s3_bucket}/source/*.parquet", str(tmp_path / "good"), name="train", role="train")
    rng = np.random.default_rng(0)
    proxy.plan = lambda method, path: str(rng.choice(PASSING)) if rng.random() < 0.1 else ""
    prepare(f"{s3_bucket}/source/*.parquet", f"{s3_bucket}/images", name="train", role="train")
    proxy.plan = lambda method, path: ""
    assert proxy.faults
    with locations.local_copy(f"{s3_bucket}/images") as found:
        for file in (tmp_path / "good").iterdir():
            assert (found / file.name).read_bytes() == file.read_bytes()
