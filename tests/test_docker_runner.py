"""A container's exit status is never lost, and the container is always removed."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mofe.errors import MofeError
from mofe.runners.docker import _is_own, container_options, require_engine, run_container


class FakeContainer:
    def __init__(self, status: int):
        self.status = status
        self.done: list[str] = []

    def start(self) -> None:
        self.done.append("start")

    def logs(self, **_: Any) -> list[bytes]:
        return [b"line one\n", b"line two\n"]

    def wait(self) -> dict[str, int]:
        self.done.append("wait")
        return {"StatusCode": self.status}

    def kill(self) -> None:
        self.done.append("kill")

    def remove(self, force: bool) -> None:
        self.done.append("remove")


@pytest.mark.parametrize("status", [0, 1, 137])
def test_the_exit_status_is_the_containers(status: int) -> None:
    container = FakeContainer(status)
    asked: dict[str, Any] = {}
    pulled: list[str] = []
    client = SimpleNamespace(
        images=SimpleNamespace(list=lambda: [SimpleNamespace(tags=["known:1"])], pull=pulled.append),
        containers=SimpleNamespace(create=lambda **options: asked.update(options) or container),
    )
    output: list[bytes] = []
    assert run_container(client, "known:1", ["true"], {}, output.append, network_mode="host") == status
    assert container.done == ["start", "wait", "remove"]
    assert b"".join(output) == b"line one\nline two\n"
    assert asked["network_mode"] == "host"
    assert "auto_remove" not in asked
    assert pulled == []
    run_container(client, "other:2", ["true"], {}, output.append)
    assert pulled == ["other:2"]


def test_a_stage_sees_the_local_paths_that_the_parameters_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("train", "near", "weights", "clip", "work"):
        (tmp_path / name).mkdir()
    (tmp_path / "weights/model.bin").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    parameters = {
        "train_data": "train",
        "ood_data": [{"dataset": "near", "uri": str(tmp_path / "near")}, {"dataset": "far", "uri": "s3://bucket/far"}],
        "weights": "weights/model.bin",
        "text_model": f"local-dir:{tmp_path}/clip",
        "backbone": "vit_tiny_patch16_224",
        "epochs": 3,
    }
    around = container_options(parameters, tmp_path / "work")
    modes = {Path(place).name: volume["mode"] for place, volume in around["volumes"].items()}
    assert modes == {"train": "ro", "near": "ro", "model.bin": "ro", "clip": "ro", "work": "rw"}
    assert all(place == volume["bind"] for place, volume in around["volumes"].items())
    assert around["working_dir"] == str(tmp_path)
    assert around["environment"]["AWS_ACCESS_KEY_ID"] == "key"
    assert "PATH" not in around["environment"]


def mounted(work: Path, **parameters: Any) -> set[str]:
    return {place for place in container_options(parameters, work)["volumes"] if place != str(work)}


def test_a_stage_sees_what_lies_beside_a_file_and_what_a_pattern_matches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = tmp_path / "work"
    for name in ("data/train.csv", "data/cat/1.png", "shards/1.parquet", "work/model.safetensors"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path / "data")
    data, shards = str(tmp_path / "data"), str(tmp_path / "shards")
    assert mounted(work, train_data="train.csv", synsets="../shards/1.parquet") == {data, shards}
    assert mounted(work, images=["../shards/*.parquet", "file://" + data, "nothing/*", "a *"]) == {data, shards}
    assert mounted(work, train_data=f"{tmp_path}/data/**/*.png") == {data}
    assert mounted(work, train_data=f"{data}#train", images=[f"{shards}/*.parquet#test"]) == {data, shards}
    assert mounted(work, weights=f"{work}/model.safetensors") == set(), "it is there already"
    (tmp_path / "data/link.parquet").symlink_to(f"{shards}/1.parquet")
    assert mounted(work, train_data="link.parquet") == {data, shards}, "the link, and what it leads to"
    monkeypatch.setattr("mofe.runners.docker._is_own", lambda folder: folder == tmp_path / "shards")
    one = f"{shards}/1.parquet"
    assert mounted(work, train_data=one) == mounted(work, train_data=f"{shards}/*") == {one}


@pytest.mark.parametrize(
    ("folder", "own"),
    [("/", True), ("/tmp", True), ("/opt", True), ("/usr/local", True), ("/etc/ssl", True), ("/home/user", False)],
)
def test_folders_that_a_container_has_for_itself(folder: str, own: bool) -> None:
    assert _is_own(Path(folder)) == own


def test_a_container_that_is_told_to_end_is_killed() -> None:
    container = FakeContainer(0)
    client = SimpleNamespace(
        images=SimpleNamespace(list=lambda: [SimpleNamespace(tags=["known:1"])]),
        containers=SimpleNamespace(create=lambda **_: container),
    )

    @contextmanager
    def stoppable(send: Callable[[int], None]) -> Iterator[None]:
        send(signal.SIGTERM)
        yield

    run_container(client, "known:1", ["true"], {}, lambda _: None, stoppable)
    assert container.done == ["kill", "start", "wait", "remove"]


def test_without_an_engine_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("docker")
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no.sock")
    with pytest.raises(MofeError, match=r"no container engine answers at unix://.*DOCKER_HOST"):
        require_engine()
