"""A container's exit status is never lost, and the container is always removed."""

from types import SimpleNamespace
from typing import Any

import pytest

from mofe.docker_runner import run_container


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
