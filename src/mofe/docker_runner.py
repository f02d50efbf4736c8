"""The cure for kfp's local Docker runner, which reports a failed stage as a success.

kfp 2.17 starts containers with ``auto_remove=True`` and takes one that is gone for one that succeeded. Here a container
is created, started, followed, waited for and only then removed, so its exit status is never lost.
"""

from collections.abc import Callable
from typing import Any


def run_container(
    client: Any,
    image: str,
    command: list[str],
    volumes: dict[str, Any],
    on_output: Callable[[bytes], None],
    **options: Any,
) -> int:
    """Run a command in a container to its end; its exit status.

    Args:
        client: a ``docker.DockerClient``.
        image: full name with tag; pulled if the engine does not have it.
        command: what to run.
        volumes: host folders, as docker-py takes them.
        on_output: called with each piece of stdout and stderr.
        options: further options of ``containers.create``.
    """
    if not any(image in known.tags for known in client.images.list()):
        on_output(f"pulling {image}\n".encode())
        client.images.pull(image)
    container = client.containers.create(image=image, command=command, volumes=volumes, **options)
    try:
        container.start()
        for piece in container.logs(stream=True, follow=True):
            on_output(piece)
        return int(container.wait()["StatusCode"])
    finally:
        container.remove(force=True)
