"""Reading and writing at any URI: a local path, ``s3://``, ``gs://``, ``az://``, ``hf://`` or whatever fsspec knows.

Nothing half-written is ever visible. A local artifact is written beside its place and renamed onto it; in an object
store every object is whole or absent, and an artifact's manifest, which its reader asks for first, is written last.

A store that does not answer is asked again, with growing pauses, by the library that speaks to it; how often is settled
here for S3 (:data:`ATTEMPTS`). What goes wrong in the end is a :class:`MofeError` that names the URI (:func:`access`).
"""

import errno
import fcntl
import hashlib
import os
import re
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from fnmatch import fnmatch
from glob import escape
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.spec import AbstractBufferedFile, AbstractFileSystem
from upath import UPath

from mofe.errors import MofeError
from mofe.sealed_json import as_json, is_sealed

Location = str | os.PathLike[str] | UPath
"""A local path or an fsspec URI, as a string or a path object."""

ATTEMPTS = 9
"""Of each S3 request, unless ``AWS_MAX_ATTEMPTS`` says otherwise: enough for a server that is being restarted."""
LONGEST_PAUSE = 20
"""Seconds; botocore's standard back-off draws pauses of up to 1, 2, 4, … seconds, and none longer than this."""
LONGEST_ANSWER = 60
"""Seconds without a byte after which a connection to S3 is given up, and the request tried again."""
READS = 2
"""Tries of s3fs, which begin where botocore's end: five, its own choice, would make 225 of the nine attempts."""

USER_INFO = re.compile(
    r"(?:(?<=http://)|(?<=https://))[^/?#\s]+@"  # a token may be the name
    r"|(?<=://)(?<!git://)(?<!github://)(?!arn:|\[)[^/@:\s]*:(?!:|\d+[/?#])(?:(?!::)[^@\s])*@",
    re.IGNORECASE,
)
"""What is secret at the beginning of a URI: name and password (there may be slashes in it), a token.

Not a name alone: ``abfs://container@account/…``, ``sftp://user@host/…``. Nor what else has a colon and later an @: a
port and a path, a chain of protocols (``tar://…::file://…``), an ARN, ``github://owner:repository@version/…``.
"""
_staged: dict[str, dict[str, str]] = {}
"""Artifacts that this process is writing: by folder, the SHA-256 of each file that is in it, by name."""

PARTIAL, OLD = "partial", "old"
"""In the names beside an artifact: what becomes it, and what it replaces."""
A_MOMENT = 60
"""Seconds."""
UNFINISHED = ".unfinished"
"""An object beside those of an artifact that is being written, or whose writer was killed."""

_NO_ANSWER = {"ConnectionError", "HTTPClientError", "ClientError", "TimeoutError"}
"""Names of the classes of botocore, aiohttp and Python under which a server that does not answer is reported."""


def check_uri(uri: str) -> None:
    """Refuse a URI that carries a password or token: it would be written down wherever the URI is.

    Raises:
        MofeError: it does; the message does not.
    """
    if "\0" in uri:
        raise MofeError(f"{uri!r} holds a NUL character, which no path or URI can")
    if USER_INFO.search(uri):
        raise MofeError(
            f"{USER_INFO.sub('', uri)} was given with a user name and password, or a token: URIs are written into logs "
            "and artifacts, so give credentials in the environment instead (docs/your-images.md)"
        )


def resolve(uri: Location) -> UPath:
    """The path object of a local path (made absolute) or fsspec URI."""
    check_uri(str(uri))
    try:
        if str(uri).startswith(("s3://", "s3a://")):
            path = UPath(uri, **_s3_options())
            type(path.fs).retries = READS
            return path
        path = UPath(uri)
        return path.absolute() if is_local(path) else path
    except (ValueError, ImportError) as error:
        raise MofeError(f"cannot open {uri}: {error}") from error


def _attempts() -> int:
    return int(os.environ.get("AWS_MAX_ATTEMPTS", ATTEMPTS))


def _s3_options() -> dict[str, Any]:
    """What botocore does not take from the environment by itself."""
    patience = {"connect_timeout": LONGEST_ANSWER, "read_timeout": LONGEST_ANSWER}
    retries = {"mode": "standard", "max_attempts": _attempts()}
    options: dict[str, Any] = {"config_kwargs": {"retries": retries, **patience}}
    if "AWS_DEFAULT_REGION" not in os.environ and (region := os.environ.get("AWS_REGION")):
        options["client_kwargs"] = {"region_name": region}  # what Amazon's other libraries read
    return options


def is_local(path: UPath) -> bool:
    """Whether ``path`` lies in this machine's file system."""
    return path.protocol in ("", "file", "local")


def is_path(name: str) -> bool:
    """Whether ``name`` is a path or URI, and not a plain word: there is a slash or a dot in it."""
    return "/" in name or "." in name


@contextmanager
def access(uri: Location, what: str = "file") -> Iterator[None]:
    """What goes wrong with a file or store inside the block becomes a MofeError that names ``what`` and ``uri``."""
    begun = time.monotonic()
    try:
        yield
    except _store_errors() as error:
        words = _own_words(error)
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            raise MofeError(f"there is no {what} at {uri}" + (f": {words}" if words else "")) from error
        remote = "://" in str(uri) and not str(uri).startswith("file:")
        if remote and isinstance(error, PermissionError):
            raise MofeError(
                f"the store refuses access to the {what} at {uri}: {words}; check the credentials in the environment "
                "(AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY for S3)"
            ) from error
        names = {kind.__name__ for kind in type(error).__mro__}
        if str(uri).startswith("s3") and (names & _NO_ANSWER or getattr(error, "errno", 0) == errno.EBUSY):
            words += f"; gave up after {time.monotonic() - begun:.0f} s and {_attempts()} attempts of each request"
        raise MofeError(f"cannot access the {what} at {uri}: {words}") from error


def _store_errors() -> tuple[type[Exception], ...]:
    """What the libraries behind fsspec raise beside OSError: of those that have been imported."""
    known = {
        "botocore.exceptions": "BotoCoreError",
        "aiohttp": "ClientError",
        "google.auth.exceptions": "GoogleAuthError",
        "gcsfs.retry": "HttpError",
        "azure.core.exceptions": "AzureError",
        "huggingface_hub.errors": "HfHubHTTPError",
        "httpx": "HTTPError",
        "httpx2": "HTTPError",
    }
    return (OSError, *(getattr(sys.modules[module], name) for module, name in known.items() if module in sys.modules))


def _own_words(error: Exception) -> str:
    """What a store says of an error in one line; nothing where it only repeats the path."""
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        text = "" if error.strerror else str(error)  # of the operating system's there is no more to say
        return " ".join(text.split()) if " " in text and "bucket" in text.lower() else ""
    return " ".join(str(error).split())[:300] or type(error).__name__


def _system(path: UPath) -> AbstractFileSystem:
    """The file system of ``path``; a new one in a forked process, since asynchronous ones do not survive that."""
    fs = path.fs
    if getattr(fs, "_pid", os.getpid()) != os.getpid():
        return type(fs)(*fs.storage_args, **fs.storage_options)
    return fs


def kind(path: UPath) -> str:
    """``file``, ``directory``, or nothing where nothing is; a missing bucket is an error."""
    with access(path):
        try:
            return str(_system(path).info(path.path)["type"])
        except (FileNotFoundError, NotADirectoryError) as error:
            if _own_words(error):
                raise
            return ""


def glob(pattern: UPath) -> list[UPath]:
    """The files and folders that match, sorted."""
    with access(pattern, "data"):
        found = sorted(_system(pattern).glob(pattern.path))
    if is_local(pattern):
        return [resolve(name) for name in found]
    return [UPath(pattern.fs.unstrip_protocol(name), **pattern.storage_options) for name in found]


def children(folder: UPath, pattern: str) -> list[UPath]:
    """What lies in ``folder`` under a name that matches, sorted; nothing if there is no such folder."""
    with access(folder, "folder"):
        try:
            names = _system(folder).ls(folder.path, detail=False)
        except (FileNotFoundError, NotADirectoryError) as error:
            if _own_words(error):
                raise
            return []
    return [folder / name for name in sorted(PurePosixPath(name).name for name in names) if fnmatch(name, pattern)]


def names(folder: UPath) -> list[str]:
    """The files in ``folder`` at any depth, relative to it, sorted; nothing if there is no such folder.

    A link to a folder is not followed: it is among them, with a slash at its end.
    """
    base = folder.path.rstrip("/") + "/"
    with access(folder, "folder"):
        found = _system(folder).find(folder.path, detail=True)
    return sorted(
        name.removeprefix(base) + ("/" if info.get("islink") and Path(name).is_dir() else "")
        for name, info in found.items()
    )


@contextmanager
def staged(uri: Location) -> Iterator[UPath]:
    """A folder to fill, which becomes ``uri`` when the block ends without an error.

    Locally the folder lies beside ``uri`` until it is whole. An older artifact at ``uri`` is then renamed, the folder
    takes its name, and the older one is removed; if the process is killed between the two, nothing is at ``uri`` until
    it is written again. In an object store the folder is ``uri`` itself, emptied first: write the manifest last.

    Raises:
        MofeError: what is at ``uri`` is neither an artifact nor an empty folder; it is left as it is.
    """
    final = resolve(uri)
    if not is_local(final):
        with access(uri, "artifact"), _noted(final):
            mark = _emptied(final)
            yield final
            _system(mark).rm(mark.path)
        return
    target = Path(final.path)
    with access(uri, "place for the artifact"):
        if target.exists() and not target.is_dir():
            raise MofeError(f"{uri} is a file: name a folder for the artifact")
        if target.is_dir() and any(target.iterdir()):
            _check_artifact(final, [file.name for file in target.iterdir()])
        target.parent.mkdir(parents=True, exist_ok=True)
        _clear(target)
        partial, old = (target.with_name(f".{target.name}.{kind}-{uuid.uuid4().hex[:12]}") for kind in (PARTIAL, OLD))
        partial.mkdir()
    try:
        with _held(partial):
            with _noted(UPath(partial)):
                yield UPath(partial)
            if target.is_dir():
                with _held(target):
                    target.rename(old)
                    partial.rename(target)
                    shutil.rmtree(old)
            else:
                partial.replace(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _clear(target: Path) -> None:
    """Remove what killed writers of ``target`` left, or put back what they had put aside.

    Whether a writer still lives, its number does not say where containers share a disk, nor its age where a stage
    takes a day. Its lock does (:func:`_held`), which ends as the process ends; it comes a moment after the name. What
    cannot be locked is left alone.
    """
    for left in target.parent.glob(f".{escape(target.name)}.{OLD}-*"):
        if not _is_held(left):
            if target.exists():
                shutil.rmtree(left, ignore_errors=True)
            else:  # killed before the new one had its name
                left.rename(target)
    for left in target.parent.glob(f".{escape(target.name)}.{PARTIAL}-*"):
        with suppress(FileNotFoundError):
            if time.time() - left.stat().st_mtime > A_MOMENT and not _is_held(left):
                shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink()


@contextmanager
def _held(place: Path) -> Iterator[None]:
    """While it lasts, no other writer takes the file or folder for something that was left."""
    descriptor = os.open(place, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks: there nothing is ever removed
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
def _noted(folder: UPath) -> Iterator[None]:
    """While it lasts, what is written into ``folder`` is hashed on its way."""
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
    """The SHA-256 of each file, by name, that has been written into ``folder`` or below since :func:`staged` began."""
    place = str(folder).rstrip("/")
    for top, files in _staged.items():
        if f"{place}/".startswith(f"{top}/"):
            below = f"{place}/".removeprefix(f"{top}/")
            return {name.removeprefix(below): files[name] for name in sorted(files) if name.startswith(below)}
    return {}


class _Hashed:
    """A file to write, and the SHA-256 of what has been written."""

    def __init__(self, file: IO[bytes]):
        self.file = file
        self.sha256 = hashlib.sha256()

    def write(self, content: bytes) -> int:
        self.sha256.update(content)
        return self.file.write(content)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def _check_artifact(folder: UPath, names: list[str]) -> None:
    """Refuse to replace what no :func:`staged` has made."""
    manifests = [name for name in names if name.endswith(".json") and "/" not in name]
    if UNFINISHED not in names and not any(is_sealed(read_bytes(folder / name, "manifest")) for name in manifests):
        raise MofeError(
            f"{folder} is not empty, and holds no artifact that could be replaced: name another folder, or remove it"
        )


def _emptied(folder: UPath) -> UPath:
    """Remove an older artifact, its manifest first, so that a reader never takes a mixture for whole.

    Returns:
        The mark of an artifact that is being written, which is all that is left.
    """
    fs = _system(folder)
    if "/" not in folder.path.strip("/"):
        raise MofeError(f"{folder} is a whole bucket: name a folder in it")
    found = [name for name in names(folder) if name]  # a folder that was made in a console is an object
    if found:
        _check_artifact(folder, found)
    mark = folder / UNFINISHED
    fs.pipe_file(mark.path, b"")
    manifests = [name for name in found if name.endswith(".json")]
    for old in (manifests, sorted({*found} - {*manifests, UNFINISHED})):
        if old:
            fs.rm([(folder / name).path for name in old])
    return mark


@contextmanager
def local_copy(uri: Location) -> Iterator[Path]:
    """The folder at ``uri`` on this machine: itself if it is local, else a copy that lives as long as the block.

    It has the name that the folder has at ``uri``.
    """
    source = resolve(uri)
    if is_local(source):
        yield Path(source.path)
        return
    with tempfile.TemporaryDirectory(prefix="mofe-") as above:
        folder = Path(above) / source.name
        with access(uri, "folder"):
            _system(source).get(source.path.rstrip("/") + "/", f"{folder}/", recursive=True)
        yield folder


def copy_folder(source: Path, target: UPath) -> None:
    """Put the files of a local folder, at any depth, to ``target``; each appears whole."""
    for file in sorted(source.rglob("*")):
        if file.is_file():
            with file.open("rb") as content, writing(target.joinpath(*file.relative_to(source).parts)) as copy:
                shutil.copyfileobj(content, copy, 1 << 24)


@contextmanager
def writing(path: UPath) -> Iterator[IO[bytes]]:
    """A file to fill piece by piece, which is at ``path`` once the block ends without an error, and not before.

    To an object store it goes out in parts of 50 MB: a large file is neither held in memory nor put on this disk.
    """
    if is_local(path):
        target = Path(path.path)
        if target.is_dir():
            raise MofeError(f"{path} is a folder: name a file")
        with access(path):
            target.parent.mkdir(parents=True, exist_ok=True)
            if not any(str(path).startswith(f"{folder}/") for folder in _staged):  # which begin empty
                _clear(target)
            partial = target.with_name(f".{target.name}.{PARTIAL}-{uuid.uuid4().hex[:12]}")
            try:
                partial.touch()
                with _held(partial):
                    with partial.open("wb") as local:
                        hashed = _Hashed(local)
                        yield cast(IO[bytes], hashed)
                    partial.replace(target)
                _note(path, hashed.sha256.hexdigest())
            finally:
                with suppress(OSError):
                    partial.unlink(missing_ok=True)
        return
    with access(path):
        file = _system(path).open(path.path, "wb")
        hashed = _Hashed(file)
        try:
            yield cast(IO[bytes], hashed)
            file.close()
            _note(path, hashed.sha256.hexdigest())
        except BaseException:
            if isinstance(file, AbstractBufferedFile):
                with suppress(Exception):
                    file.discard()
                file.closed = True  # else it would upload what it has when it is collected
            raise


def write_bytes(path: UPath, content: bytes) -> None:
    """Write one file so that a reader sees the old content or the new, never a part."""
    if is_local(path):
        with writing(path) as file:
            file.write(content)
        return
    with access(path):
        _system(path).pipe_file(path.path, content)
    _note(path, hashlib.sha256(content).hexdigest())


def write_json(path: UPath, content: Any) -> None:
    """Write ``content`` as indented JSON, as :func:`write_bytes` does; NaN and infinity are refused."""
    write_bytes(path, as_json(content))


def sha256(path: UPath | Path) -> str:
    """The SHA-256 of a file, read once from front to back."""
    digest = hashlib.sha256()
    with reading(UPath(path), "file") as file:
        while piece := file.read(1 << 22):
            digest.update(piece)
    return digest.hexdigest()


def read_bytes(path: UPath, what: str) -> bytes:
    """The content of one file; a missing or unreadable one is an error that names ``what`` and the URI."""
    with access(path, what):
        return bytes(_system(path).cat_file(path.path))


@contextmanager
def reading(path: UPath, what: str) -> Iterator[IO[bytes]]:
    """A file to read from front to back, a few megabytes at a time."""
    with access(path, what), _system(path).open(path.path, "rb") as file:
        yield file


@contextmanager
def open_parquet(path: UPath, metadata: pq.FileMetaData | None = None) -> Iterator[pq.ParquetFile]:
    """A Parquet file at any URI: memory-mapped if it is local, else read in the ranges that are asked for, no more.

    Args:
        path: the file.
        metadata: its footer, if it has been read before.
    """
    local = is_local(path)
    with access(path, "Parquet file"), ExitStack() as opened:
        source = path.path if local else opened.enter_context(_system(path).open(path.path, "rb", cache_type="none"))
        try:
            parquet = pq.ParquetFile(
                source, metadata=metadata, memory_map=local, pre_buffer=not local, page_checksum_verification=True
            )
            yield opened.enter_context(parquet)
        except (pa.ArrowException, UnicodeDecodeError) as error:  # a damaged file can be found out at any page
            reason = " ".join(str(error).split())[:300]
            raise MofeError(f"{path} is not a readable Parquet file: {reason}") from error


def read_parquet(path: UPath, columns: list[str] | None = None) -> Any:
    """The ``pyarrow.Table`` of a Parquet file at any URI."""
    with open_parquet(path) as parquet:
        return parquet.read(columns=columns)


def digest_of_listing(uri: Location) -> str:
    """A digest of what lies at ``uri``: every file's relative path, size and version (etag, checksum or mtime).

    Two listings agree exactly when no file was added, removed or rewritten; no file content is read.
    """
    root = resolve(uri)
    fs, base = _system(root), root.path.rstrip("/")
    with access(uri, "data"):
        files = {base: fs.info(base)} if kind(root) == "file" else fs.find(base, detail=True)
    if not files:
        raise MofeError(f"there are no files at {uri}")
    digest = hashlib.sha256()
    for name, info in sorted(files.items()):
        if info.get("islink"):
            with suppress(OSError):
                info["mtime"] = Path(name).stat().st_mtime  # of the file that is read, not of the link
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
