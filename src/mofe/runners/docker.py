"""Stages in containers on this machine: what they see of it, and the cure for a flaw of kfp's local Docker runner.

kfp 2.17 starts containers with ``auto_remove=True`` and takes one that is gone for one that succeeded, so a failed
stage is reported as a success. Here a container is created, started, followed, waited for and only then removed, so its
exit status is never lost.
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

PASSED_ON = re.compile(r"(AWS|AZURE|GOOGLE|HF|KFP|MLFLOW|MOFE|MKL|OMP|OPENBLAS)_")
"""Variables of this process that stages get: what a Secret gives them on a cluster, and how to behave."""
WITH_NEIGHBOURS = (".csv", ".parquet", *ARCHIVES)
"""Files beside which there may be others that a stage reads: images, ``synsets.csv``."""


def require_engine() -> None:
    """Refuse to start where no container engine answers.

    Raises:
        MofeError: says what was tried.
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
    """Run a command in a container to its end; its exit status.

    Args:
        client: a ``docker.DockerClient``.
        image: full name with tag; pulled if the engine does not have it.
        command: what to run.
        volumes: host folders, as docker-py takes them.
        on_output: called with each piece of stdout and stderr.
        stoppable: a context in which the container runs; given what ends it, whatever the signal, since a container's
            first process hears of no other.
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


def surroundings(parameters: dict[str, Any], work: Path) -> dict[str, Any]:
    """Options of ``containers.create`` that let a stage work here as it does in a process of its own.

    The work folder, to write to; to read, each local file and folder that the pipeline's parameters name, and of data
    its folder, since stages read what lies beside it; this machine's network; the user who started the run, to whom
    the files then belong; memory that loader processes share.
    """
    return {
        "volumes": _volumes(parameters, work),
        "environment": {name: value for name, value in os.environ.items() if PASSED_ON.match(name)},
        "network_mode": "host",
        "shm_size": "2g",
        "user": f"{os.getuid()}:{os.getgid()}",
        "working_dir": str(Path.cwd()),  # what relative paths are relative to
    }


def _volumes(parameters: dict[str, Any], work: Path) -> dict[str, Any]:
    """What is mounted, each under its own name: the work folder to write to, what parameters name to read."""
    places = {place for place in _local_paths(parameters) if not place.is_relative_to(work)}
    volumes = {str(place): {"bind": str(place), "mode": "ro"} for place in sorted(places)}
    return {**volumes, str(work): {"bind": str(work), "mode": "rw"}}


def _local_paths(value: Any) -> Iterator[Path]:
    """What a parameter's value names: files and folders, and the folders of data and of patterns."""
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
    """The folder that a pattern looks into; what matches, where the container has such a folder for itself."""
    if "://" not in pattern and (matches := locations.glob(locations.resolve(pattern))):
        fixed = pattern.partition("*")[0]
        folder = _absolute(fixed[: fixed.rfind("/") + 1])
        yield from [Path(match.path) for match in matches] if _is_own(folder) else [folder]


def _paths_of_place(place: str) -> Iterator[Path]:
    """A file or folder and, if it is a link, what it leads to; of data the folder."""
    for found in (_absolute(place), Path(place).resolve()):
        has_neighbours = found.is_file() and found.name.endswith(WITH_NEIGHBOURS)
        yield found.parent if has_neighbours and not _is_own(found.parent) else found


def _is_own(folder: Path) -> bool:
    """Whether a container has a folder of this name for itself: ``/opt``, ``/usr/local``."""
    return len(folder.parts) <= 2 or folder.parts[1] in ("usr", "etc")


def _absolute(place: str) -> Path:
    """As the stage is given it: links are not followed."""
    return Path(os.path.normpath(Path(place).absolute()))
