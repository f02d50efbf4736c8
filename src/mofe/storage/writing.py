"""Writing at any URI: incomplete artifacts are never visible, and foreign files are never overwritten.

A local artifact is written to a temporary folder beside its path, and then renamed. In an object store every object is
complete or absent, and the manifest of an artifact, which is read first, is written last. Files are hashed while they
are written.
"""

import fcntl
import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import IO, Any, cast

from fsspec.spec import AbstractBufferedFile
from upath import UPath

from mofe.errors import MofeError
from mofe.storage import locations
from mofe.storage.checksummed_json import as_json, has_checksum

_staged: dict[str, dict[str, str]] = {}
"""Artifacts that this process is writing: for each folder, the SHA-256 of each of its files, by name."""

PARTIAL, OLD = "partial", "old"
"""Parts of the names beside an artifact: of the new version, and of the version that it replaces."""

A_MOMENT = 60
"""Seconds that a writer may take between creating a file or folder and locking it."""

UNFINISHED = ".unfinished"
"""Name of the object that marks an artifact that is being written, or whose writer was killed."""


@contextmanager
def staged(uri: locations.Location) -> Iterator[UPath]:
    """Yield a folder to fill, which becomes ``uri`` when the block ends without an error.

    Locally the folder is beside ``uri`` until it is complete. Then an older artifact at ``uri`` is renamed, the folder
    gets its name, and the older artifact is removed. If the process is killed between the two renames, there is nothing
    at ``uri`` until it is written again. In an object store the folder is ``uri`` itself, which is emptied first; write
    the manifest last.

    Raises:
        MofeError: ``uri`` is neither an artifact nor an empty folder; it is not changed.
    """
    final = locations.resolve(uri)
    if not locations.is_local(final):
        with locations.access(uri, "artifact"):
            mark = _empty(final)
        with _record_digests(final):
            yield final
        with locations.access(uri, "artifact"):
            locations.file_system(mark).rm(mark.path)
        return
    target = Path(final.path)
    with locations.access(uri, "place for the artifact"):
        if target.exists() and not target.is_dir():
            raise MofeError(f"{uri} is a file: name a folder for the artifact")
        if target.is_dir():
            _check_artifact(final, [file.name for file in target.iterdir()])
        target.parent.mkdir(parents=True, exist_ok=True)
        _clear(target)
        partial, old = _beside(target, PARTIAL), _beside(target, OLD)
        partial.mkdir()
    try:
        with _lock(partial):
            with _record_digests(UPath(partial)):
                yield UPath(partial)
            with locations.access(uri, "place for the artifact"):
                _put(partial, target, old)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _put(partial: Path, target: Path, old: Path) -> None:
    """Give the complete folder its name; an older one is renamed first, and then removed."""
    if not target.is_dir():
        partial.replace(target)
        return
    with _lock(target):
        target.rename(old)
        partial.rename(target)
        shutil.rmtree(old)


def _beside(target: Path, kind: str) -> Path:
    """A unique name beside ``target``; :func:`_clear` finds all names of a kind."""
    return target.with_name(f".{target.name}.{kind}-{uuid.uuid4().hex[:12]}")


def _clear(target: Path) -> None:
    """Remove the files that killed writers of ``target`` left, or restore the version that they had renamed.

    A lock shows whether a writer is alive (:func:`_lock`), because it ends with the process. A process id does not show
    it where containers share a disk, nor does the age where a stage takes a day. Files that cannot be locked are kept.
    """
    for left in target.parent.glob(f".{escape(target.name)}.{OLD}-*"):
        if not _is_held(left):
            if target.exists():
                shutil.rmtree(left, ignore_errors=True)
            else:  # killed before the new version was renamed
                left.rename(target)
    for left in target.parent.glob(f".{escape(target.name)}.{PARTIAL}-*"):
        with suppress(FileNotFoundError):
            if time.time() - left.stat().st_mtime > A_MOMENT and not _is_held(left):
                shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink()


@contextmanager
def _lock(place: Path) -> Iterator[None]:
    """Lock the file or folder, so that no other writer removes it as left by a killed writer."""
    descriptor = os.open(place, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks, where nothing is removed
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)


def _is_held(place: Path) -> bool:
    try:
        descriptor = os.open(place, os.O_RDONLY)
    except OSError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return False
    except OSError:
        return True
    finally:
        os.close(descriptor)


@contextmanager
def _record_digests(folder: UPath) -> Iterator[None]:
    """Record the SHA-256 of the files that are written into ``folder`` inside the block."""
    place = str(folder).rstrip("/")
    _staged[place] = {}
    try:
        yield
    finally:
        del _staged[place]


def _note(path: UPath, digest: str) -> None:
    for folder, files in _staged.items():
        if str(path).startswith(f"{folder}/"):
            files[str(path).removeprefix(f"{folder}/")] = digest


def written(folder: UPath) -> dict[str, str]:
    """The SHA-256, by name, of each file written into ``folder`` or below it since :func:`staged` began."""
    place = str(folder).rstrip("/")
    for top, files in _staged.items():
        if f"{place}/".startswith(f"{top}/"):
            below = f"{place}/".removeprefix(f"{top}/")
            return {name.removeprefix(below): files[name] for name in sorted(files) if name.startswith(below)}
    return {}


class _Hashed:
    """A file to write, and the SHA-256 of the bytes written so far; its errors name ``path``."""

    def __init__(self, file: IO[bytes], path: UPath):
        self.file = file
        self.path = path
        self.sha256 = hashlib.sha256()

    def write(self, content: bytes) -> int:
        self.sha256.update(content)
        with locations.access(self.path):
            return self.file.write(content)

    def finish(self) -> None:
        """Close the file, which writes what is left, and note its digest."""
        with locations.access(self.path):
            self.file.close()
        _note(self.path, self.sha256.hexdigest())

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def _check_artifact(folder: UPath, names: list[str]) -> None:
    """Refuse to replace a folder that :func:`staged` did not make, unless it is empty."""
    if not names:
        return
    manifests = [folder / name for name in names if name.endswith(".json") and "/" not in name]
    if UNFINISHED not in names and not any(has_checksum(locations.read_bytes(file, "manifest")) for file in manifests):
        raise MofeError(f"{folder} is not empty, and holds no artifact to replace: name another folder, or remove it")


def _empty(folder: UPath) -> UPath:
    """Remove an older artifact, its manifest first, so that a reader never accepts a mixture of two.

    Returns:
        The mark of an artifact that is being written, the only object left.
    """
    fs = locations.file_system(folder)
    if "/" not in folder.path.strip("/"):
        raise MofeError(f"{folder} is a whole bucket: name a folder in it")
    found = [name for name in locations.names(folder) if name]  # a console makes a folder as an object
    _check_artifact(folder, found)
    mark = folder / UNFINISHED
    fs.pipe_file(mark.path, b"")
    manifests = [name for name in found if name.endswith(".json")]
    for old in (manifests, sorted({*found} - {*manifests, UNFINISHED})):
        if old:
            fs.rm([(folder / name).path for name in old])
    return mark


def copy_folder(source: Path, target: UPath) -> None:
    """Copy the files of a local folder, at any depth, to ``target``; each file appears only when it is complete."""
    for found in sorted(source.rglob("*")):
        if found.is_file():
            with found.open("rb") as content, file(target.joinpath(*found.relative_to(source).parts)) as copy:
                shutil.copyfileobj(content, copy, 1 << 24)


@contextmanager
def file(path: UPath) -> Iterator[IO[bytes]]:
    """Open a file to write piece by piece, which appears at ``path`` only when the block ends without an error.

    It is sent to an object store in parts of 50 MB, so a large file is neither held in memory nor stored on this disk.
    Errors of the file name it; what the block raises for other reasons is not wrapped.
    """
    if locations.is_local(path):
        with _local_file(path) as local:
            yield local
        return
    with locations.access(path):
        remote = locations.file_system(path).open(path.path, "wb")
    try:
        hashed = _Hashed(remote, path)
        yield cast(IO[bytes], hashed)
        hashed.finish()
    except BaseException:
        if isinstance(remote, AbstractBufferedFile):
            with suppress(Exception):
                remote.discard()
            remote.closed = True  # otherwise it would upload its buffer on garbage collection
        raise


@contextmanager
def _local_file(path: UPath) -> Iterator[IO[bytes]]:
    target = Path(path.path)
    if target.is_dir():
        raise MofeError(f"{path} is a folder: name a file")
    with locations.access(path):
        target.parent.mkdir(parents=True, exist_ok=True)
        if not any(str(path).startswith(f"{folder}/") for folder in _staged):  # which start empty
            _clear(target)
        partial = _beside(target, PARTIAL)
        local = partial.open("wb")
    try:
        with _lock(partial):
            hashed = _Hashed(local, path)
            yield cast(IO[bytes], hashed)
            hashed.finish()
            with locations.access(path):
                partial.replace(target)
    finally:
        with suppress(OSError):  # of a disk that is full still
            local.close()
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def write_bytes(path: UPath, content: bytes) -> None:
    """Write one file so that a reader sees the old content or the new, never a mixture."""
    if locations.is_local(path):
        with file(path) as stream:
            stream.write(content)
        return
    with locations.access(path):
        locations.file_system(path).pipe_file(path.path, content)
    _note(path, hashlib.sha256(content).hexdigest())


def write_json(path: UPath, content: Any) -> None:
    """Write ``content`` as indented JSON, as :func:`write_bytes` does; NaN and infinity are refused."""
    write_bytes(path, as_json(content))
