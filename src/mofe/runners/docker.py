"""Runs stages in containers on this machine, and chooses what the containers can access.

It replaces a part of kfp's local Docker runner. kfp 2.17 starts containers with ``auto_remove=True`` and reports a
removed container as a success, even if it failed. This module removes a container only after it has read the exit
status.
"""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from mofe.artifacts.texts import LOCAL_MODEL
from mofe.data.tar import ARCHIVES
from mofe.errors import MofeError
from mofe.storage import locations

PASSED_VARIABLES = re.compile(r"(AWS|AZURE|GOOGLE|HF|KFP|MLFLOW|MOFE|MKL|OMP|OPENBLAS)_")
"""Environment variables that stages get from this process. On a cluster they come from a Secret or an image."""
WITH_NEIGHBOURS = (".csv", ".parquet", *ARCHIVES)
"""Suffixes of data files. A stage may read other files in the same folder: images, ``synsets.csv``."""


def require_engine() -> None:
    """Check that a container engine answers.

    Raises:
        MofeError: no container engine answers.
    """
    from docker.client import DockerClient
    from docker.errors import DockerException

    try:
        DockerClient.from_env().ping()
    except DockerException as error:
        where = os.environ.get("DOCKER_HOST", "/var/run/docker.sock")
        raise MofeError(
            f"no container engine answers at {where}: start Docker, or podman's service and set DOCKER_HOST; or use "
            "--runner subprocess"
        ) from error


def run_container(
    client: Any,
    image: str,
    command: list[str],
    volumes: dict[str, Any],
    on_output: Callable[[bytes], None],
    stoppable: Callable[[Callable[[int], None]], AbstractContextManager[Any]] = nullcontext,
    **options: Any,
) -> int:
    """Run a command in a container to its end; return its exit status.

    Args:
        client: ``docker.DockerClient`` to run it with.
        image: full name with tag; it is pulled if the engine does not have it.
        command: command and arguments.
        volumes: host folders to mount, in the form of docker-py.
        on_output: function that is called with each piece of stdout and stderr.
        stoppable: context manager around the run. It takes a function that ends the container by SIGKILL, because the
            first process of a container ignores signals that it does not handle.
        options: further options of ``containers.create``.
    """
    _pull_if_missing(client, image, on_output)
    container = client.containers.create(image=image, command=command, volumes=volumes, **options)
    try:
        with stoppable(lambda _: container.kill()):
            container.start()
            for piece in container.logs(stream=True, follow=True):
                on_output(piece)
            return int(container.wait()["StatusCode"])
    finally:
        container.remove(force=True)


def _pull_if_missing(client: Any, image: str, on_output: Callable[[bytes], None]) -> None:
    if not any(image in known.tags for known in client.images.list()):
        on_output(f"pulling {image}\n".encode())
        client.images.pull(image)


def container_options(parameters: dict[str, Any], work: Path) -> dict[str, Any]:
    """Options of ``containers.create`` with which a stage works in a container as in a process of this machine.

    The container can write to the work folder. It can read each local file and folder that the pipeline's parameters
    name, and the folder around a data file, because stages read other files there. It has this machine's network, the
    user who started the run, so that the files belong to that user, and shared memory for loader processes.

    Args:
        parameters: parameters of the pipeline.
        work: work folder of the run.
    """
    return {
        "volumes": _volumes(parameters, work),
        "environment": {name: value for name, value in os.environ.items() if PASSED_VARIABLES.match(name)},
        "network_mode": "host",
        "shm_size": "2g",
        "user": f"{os.getuid()}:{os.getgid()}",
        "working_dir": str(Path.cwd()),  # because parameters may hold relative paths
    }


def _volumes(parameters: dict[str, Any], work: Path) -> dict[str, Any]:
    """Folders and files to mount, each under its own name: the work folder to write to, those of parameters to read."""
    places = {place for place in _local_paths(parameters) if not place.is_relative_to(work)}
    volumes = {str(place): {"bind": str(place), "mode": "ro"} for place in sorted(places)}
    return {**volumes, str(work): {"bind": str(work), "mode": "rw"}}


def _local_paths(value: Any) -> Iterator[Path]:
    """Yield the local paths to mount for a parameter's value."""
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _local_paths(item)
    elif isinstance(value, str):
        place = value.removeprefix(LOCAL_MODEL).removeprefix("file://")
        if not Path(place).exists():
            place = place.rpartition("#")[0] or place  # the name of a split
        if "*" in place and not Path(place).exists():
            yield from _paths_of_pattern(place)
        elif place and Path(place).exists():
            yield from _paths_of_place(place)


def _paths_of_pattern(pattern: str) -> Iterator[Path]:
    """Yield the folder that a pattern searches, or only the matches where the container has its own such folder."""
    if "://" not in pattern and (matches := locations.glob(locations.resolve(pattern))):
        fixed = pattern.partition("*")[0]
        folder = _absolute(fixed[: fixed.rfind("/") + 1])
        yield from [Path(match.path) for match in matches] if _is_own(folder) else [folder]


def _paths_of_place(place: str) -> Iterator[Path]:
    """Yield a file or folder, or the folder around a data file; if it is a link, also the target."""
    for found in (_absolute(place), Path(place).resolve()):
        has_neighbours = found.is_file() and found.name.endswith(WITH_NEIGHBOURS)
        yield found.parent if has_neighbours and not _is_own(found.parent) else found


def _is_own(folder: Path) -> bool:
    """Whether a container has its own folder of this name, for example ``/opt`` or ``/usr/local``."""
    return len(folder.parts) <= 2 or folder.parts[1] in ("usr", "etc")


def _absolute(place: str) -> Path:
    """Make a path absolute without following links, because the stage gets the name of the link."""
    return Path(os.path.normpath(Path(place).absolute()))
