"""Reading and writing at any URI: a local path, ``s3://``, ``gs://``, ``hf://`` or whatever fsspec knows.

Nothing half-written is ever visible. A local artifact is written beside its place and renamed onto it; in an object
store every object is whole or absent, and an artifact's manifest, which its reader asks for first, is written last.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pyarrow.parquet as pq
from upath import UPath

from mofe.errors import MofeError

Location = str | os.PathLike[str] | UPath
"""A local path or an fsspec URI, as a string or a path object."""


def resolve(uri: Location) -> UPath:
    """The path object of a local path (made absolute) or fsspec URI."""
    try:
        path = UPath(uri)
    except (ValueError, ImportError) as error:
        raise MofeError(f"cannot open {uri}: {error}") from error
    return path.absolute() if is_local(path) else path


def is_local(path: UPath) -> bool:
    """Whether ``path`` lies in this machine's file system."""
    return path.protocol in ("", "file", "local")


@contextmanager
def staged(uri: Location) -> Iterator[UPath]:
    """A folder to fill, which becomes ``uri`` when the block ends without an error.

    Locally the folder lies beside ``uri`` until it is whole, and an older artifact at ``uri`` is replaced in one
    rename. In an object store it is ``uri`` itself: write the manifest last.
    """
    final = resolve(uri)
    if not is_local(final):
        yield final
        return
    target = Path(final.path)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield UPath(partial)
        if target.is_dir():
            old = target.with_name(f".{target.name}.old-{os.getpid()}")
            target.rename(old)
            partial.rename(target)
            shutil.rmtree(old)
        else:
            partial.replace(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def local_copy(uri: Location) -> Iterator[Path]:
    """The folder at ``uri`` on this machine: itself if it is local, else a copy that lives as long as the block."""
    source = resolve(uri)
    if is_local(source):
        yield Path(source.path)
        return
    with tempfile.TemporaryDirectory(prefix="mofe-") as folder:
        try:
            source.fs.get(source.path.rstrip("/") + "/", folder, recursive=True)
        except OSError as error:
            raise MofeError(f"cannot copy {uri}: {error}") from error
        yield Path(folder)


@contextmanager
def writing(path: UPath) -> Iterator[IO[bytes]]:
    """A file to write from front to back, which is at ``path`` once the block ends without an error, and not before."""
    if not is_local(path):
        with path.open("wb") as file:
            yield file
        return
    target = Path(path.path)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial-{os.getpid()}")
    try:
        with partial.open("wb") as local:
            yield local
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def write_bytes(path: UPath, content: bytes) -> None:
    """Write one file so that a reader sees the old content or the new, never a part."""
    if not is_local(path):
        path.write_bytes(content)
        return
    target = Path(path.path)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial-{os.getpid()}")
    partial.write_bytes(content)
    partial.replace(target)


def write_json(path: UPath, content: Any) -> None:
    """Write ``content`` as indented JSON, atomically; NaN and infinity are refused."""
    write_bytes(path, (json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())


def read_bytes(path: UPath, what: str) -> bytes:
    """The content of one file; a missing or unreadable one is an error that names ``what`` and the URI."""
    try:
        return bytes(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MofeError(f"there is no {what} at {path}") from error
    except OSError as error:
        raise MofeError(f"cannot read the {what} at {path}: {error}") from error


def open_parquet(path: UPath) -> pq.ParquetFile:
    """A Parquet file at any URI; memory-mapped where that is possible."""
    try:
        if is_local(path):
            return pq.ParquetFile(path.path, memory_map=True)
        return pq.ParquetFile(path.open("rb"))
    except FileNotFoundError as error:
        raise MofeError(f"there is no Parquet file at {path}") from error
    except (OSError, ValueError) as error:
        raise MofeError(f"{path} is not a readable Parquet file: {error}") from error


def digest_of_listing(uri: str) -> str:
    """A digest of what lies at ``uri``: every file's relative path, size and version (etag, checksum or mtime).

    Two listings agree exactly when no file was added, removed or rewritten; no file content is read.
    """
    root = resolve(uri)
    fs, base = root.fs, root.path.rstrip("/")
    try:
        files = {base: fs.info(base)} if fs.isfile(base) else fs.find(base, detail=True)
    except OSError as error:
        raise MofeError(f"cannot list {uri}: {error}") from error
    if not files:
        raise MofeError(f"there are no files at {uri}")
    digest = hashlib.sha256()
    for name, info in sorted(files.items()):
        version = next(
            (
                info[key]
                for key in ("ETag", "etag", "md5Hash", "crc32c", "sha", "mtime", "LastModified", "last_modified")
                if info.get(key)
            ),
            "",
        )
        digest.update(f"{name.removeprefix(base)}\0{info.get('size')}\0{version}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()[:16]
