"""Content digests for the tags of the stages' images.

Kubeflow's cache, local or on a cluster, compares the image string and not the content of the image. So the tag is
``<version>-<digest>``, where the digest covers the source files that the stage imports, its target of the Dockerfile
and the pinned versions. After a file was edited, only the stages that import it and those below them run again.
"""

import hashlib
import os
import re
from collections.abc import Sequence
from functools import cache
from importlib import resources
from pathlib import Path

import grimp

from mofe import __version__

PACKAGE = "mofe"


def compiled_pipeline(name: str) -> Path:
    """Path of a compiled pipeline: ``mofe.yaml``, ``sharded.yaml``, ``tables.yaml`` or ``detect.yaml``."""
    return _root() / "compiled" / name


def stamp(pipeline: str, registry: str | None = None) -> str:
    """Replace the tags in a compiled pipeline by content digests.

    Args:
        pipeline: YAML with images ``REGISTRY/mofe-TARGET:VERSION``.
        registry: new registry of the images; None keeps the one in the YAML.
    """
    executor, lines = "", []
    for line in pipeline.splitlines(keepends=True):
        if found := re.match(r"\s+exec-([a-z]+(?:-[a-z]+)*)(-\d+)*:\s*$", line):
            executor = found.group(1).replace("-", "_")
        elif found := re.match(r"(\s+image: )(\S+)\s*$", line):
            line = f"{found.group(1)}{present_image(executor, found.group(2), registry)}\n"
        lines.append(line)
    return "".join(lines)


def present_image(stage: str, image: str, registry: str | None = None) -> str:
    """Name of the image that holds the present code of a stage.

    Args:
        stage: name of the stage.
        image: image to replace: ``REGISTRY/mofe-TARGET:TAG``.
        registry: new registry; None keeps that of ``image``.

    Raises:
        ValueError: ``image`` does not have this form, or there is no such stage.
    """
    found = re.fullmatch(r"(\S+)/(mofe-([a-z]+)):\S+", image)
    if found is None:
        raise ValueError(f"{image} is not a mofe image")
    place, name, target = found.groups()
    return f"{registry or place}/{name}:{__version__}-{stage_digest(stage, target)}"


def stage_digest(stage: str, target: str) -> str:
    """12 hexadecimal digits of a digest over all files of this repository that the stage runs."""
    module = f"{PACKAGE}.stages.{stage}"
    if module not in _import_graph().modules:
        raise ValueError(f"{stage} is not a stage")
    return _digest(source_files(module), target)


def package_digest(target: str) -> str:
    """12 hexadecimal digits of a digest over the whole package and ``target``, for an image that runs no stage."""
    folders = os.walk(_root(), followlinks=True)  # in a checkout the compiled pipelines are a link
    files = (Path(folder, name) for folder, _, names in folders for name in names if "__pycache__" not in folder)
    return _digest(sorted(files), target)


def _digest(files: Sequence[Path], target: str) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(_root())}\0".encode() + file.read_bytes())
    digest.update(dockerfile_target((_root() / "docker" / "Dockerfile").read_text("utf-8"), target).encode())
    digest.update((_root() / "docker" / "constraints.txt").read_bytes())
    return digest.hexdigest()[:12]


def source_files(module: str) -> list[Path]:
    """Files of this package that ``module`` may run or read.

    They are the modules that it imports directly or indirectly, and the packages above these. They include modules
    whose full name is a string in that code, because MLflow or another process runs these. They also include the
    templates, tables and stubs with the same name as a module, because a lazy package reads its stub.
    """
    graph = _import_graph()
    reached: set[str] = set()
    pending = [module]
    while pending:
        name = pending.pop()
        if name not in reached:
            reached.add(name)
            parent = name.rpartition(".")[0]
            pending += [*graph.find_modules_directly_imported_by(name), *([parent] if parent else [])]
            named = re.findall(rf'"({PACKAGE}(?:\.\w+)+)"', _file_of(name).read_text("utf-8"))
            pending += [other for other in named if other in graph.modules]
    files: set[Path] = set()
    for file in map(_file_of, reached):
        beside = (file.with_suffix(suffix) for suffix in (".html", ".csv", ".pyi"))
        files |= {file, *(other for other in beside if other.is_file())}
    return sorted(files)


def dockerfile_target(dockerfile: str, target: str) -> str:
    """The part of a Dockerfile that builds ``target``: its section, and the sections it builds upon or copies from."""
    sections: dict[str, tuple[list[str], str]] = {}
    for section in re.split(r"(?m)^(?=FROM )", dockerfile)[1:]:
        _, parent, _, name = section.split("\n", 1)[0].split()  # FROM parent AS name
        sections[name] = ([parent, *re.findall(r"--from=(\S+)", section)], section.rstrip())
    needed: set[str] = set()
    pending = [target]
    while pending:
        name = pending.pop()
        if name in sections and name not in needed:
            needed.add(name)
            pending += sections[name][0]
    return "\n".join(text for name, (_, text) in sections.items() if name in needed)


def images_of(stamped: str) -> dict[str, set[str]]:
    """Images that a stamped pipeline names: target of the Dockerfile → full names with tags."""
    images: dict[str, set[str]] = {}
    for image, target in re.findall(r"(?m)^\s+image: (\S+/mofe-([a-z]+):\S+)\s*$", stamped):
        images.setdefault(target, set()).add(image)
    return images


@cache
def _import_graph() -> grimp.ImportGraph:
    return grimp.build_graph(PACKAGE, exclude_type_checking_imports=True, cache_dir=None)


def _file_of(module: str) -> Path:
    place = _root().joinpath(*module.split(".")[1:])
    return place / "__init__.py" if place.is_dir() else place.with_suffix(".py")


def _root() -> Path:
    return Path(str(resources.files(PACKAGE)))
