"""Locations and reading at any URI: a local path, ``s3://``, ``gs://``, ``az://``, ``hf://`` or others of fsspec.

The library of a store repeats requests that get no answer, with growing pauses; for S3 the number of attempts is set
here (:data:`ATTEMPTS`). A final failure is a :class:`MofeError` that names the URI (:func:`access`).
"""

import errno
import hashlib
import os
import re
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import IO, Any, Literal, NamedTuple, cast

import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.asyn import AsyncFileSystem
from fsspec.spec import AbstractFileSystem
from upath import UPath

from mofe.errors import MofeError, in_one_line, shown

Location = str | os.PathLike[str] | UPath
"""A local path or an fsspec URI, as a string or a path object."""

ATTEMPTS = 9
"""Attempts of each S3 request, unless ``AWS_MAX_ATTEMPTS`` is set; enough to outlast the restart of a server."""
LONGEST_PAUSE = 20
"""Longest pause in seconds. botocore's standard back-off draws pauses of up to 1, 2, 4, … seconds, up to this limit."""
LONGEST_ANSWER = 60
"""Seconds without a byte after which a connection to S3 is closed, and the request repeated."""
READS = 2
"""Attempts of s3fs, each of which includes all of botocore's. Its default of five would make 225 of nine attempts."""

USER_INFO = re.compile(
    r"(?:(?<=http://)|(?<=https://))[^/?#\s]+@"  # a token may be the name
    r"|(?<=://)(?<!git://)(?<!github://)(?!arn:|\[)[^/@:\s]*:(?!:|\d+[/?#])(?:(?!::)[^@\s])*@",
    re.IGNORECASE,
)
"""Secrets at the beginning of a URI: a name and password (which may contain slashes), or a token.

The pattern does not match a name alone: ``abfs://container@account/…``, ``sftp://user@host/…``. It also does not match
other URIs with a colon and a later @: a port and a path, a chain of protocols (``tar://…::file://…``), an ARN,
``github://owner:repository@version/…``.
"""


_NO_ANSWER = {"ConnectionError", "HTTPClientError", "ClientError", "TimeoutError"}
"""Names of the exceptions of botocore, aiohttp and Python that mean that a server does not answer."""


def check_uri(uri: str) -> None:
    """Refuse a URI that contains a password or token, because URIs are written into logs and artifacts.

    Raises:
        MofeError: the URI contains one; the message does not.
    """
    if USER_INFO.search(uri):
        raise MofeError(
            f"{without_secrets(uri)} was given with a user name and password, or a token: URIs are written into logs "
            "and artifacts, so give credentials in the environment instead (docs/how-to/your-images.md)"
        )


def without_secrets(text: str) -> str:
    """Remove the matches of :data:`USER_INFO` from a text with URIs."""
    return USER_INFO.sub("", text)


def resolve(uri: Location) -> UPath:
    """Make the path object of a local path (absolute) or fsspec URI.

    Raises:
        MofeError: ``uri`` is not a path or URI, holds a password, or is of an unknown protocol.
    """
    if not isinstance(uri, str | os.PathLike | UPath):
        raise MofeError(f"expected a path or URI, not {shown(uri)}")
    if "\0" in str(uri):
        raise MofeError(f"{str(uri)!r} holds a NUL character, which is not allowed in a path or URI")
    check_uri(str(uri))
    uri = _expanded(uri)
    try:
        if str(uri).startswith(("s3://", "s3a://")):
            path = UPath(uri, **_s3_options())
            type(path.fs).retries = READS
            return path
        path = UPath(uri)
        return path.absolute() if is_local(path) else path
    except (ValueError, ImportError) as error:
        raise MofeError(f"cannot open {uri}: {error}") from error


def recorded(uri: str) -> str:
    """The text under which an artifact records a place: a local path is absolute; globs, splits and URIs stay."""
    return uri if "://" in uri else str(Path(str(_expanded(uri))).absolute())


def _expanded(uri: Location) -> Location:
    """Put the home folder in the place of a leading ``~``, as a shell does; parameter files and CSV files have none."""
    text = str(uri)
    if not text.startswith("~"):
        return uri
    expanded = os.path.expanduser(text)  # noqa: PTH111 - pathlib raises RuntimeError where there is no home
    if expanded == text and not os.path.lexists(text):
        raise MofeError(f"{text} begins with ~, but there is no such home folder: give the whole path")
    return expanded


def _attempts() -> int:
    return int(os.environ.get("AWS_MAX_ATTEMPTS", ATTEMPTS))


def _s3_options() -> dict[str, Any]:
    """Options that botocore does not read from the environment itself."""
    patience = {"connect_timeout": LONGEST_ANSWER, "read_timeout": LONGEST_ANSWER}
    retries = {"mode": "standard", "max_attempts": _attempts()}
    options: dict[str, Any] = {"config_kwargs": {"retries": retries, **patience}}
    if "AWS_DEFAULT_REGION" not in os.environ and (region := os.environ.get("AWS_REGION")):
        options["client_kwargs"] = {"region_name": region}  # Amazon's other libraries read it
    return options


def is_local(path: UPath) -> bool:
    """Whether ``path`` is in this machine's file system."""
    return path.protocol in ("", "file", "local")


def is_path(name: str) -> bool:
    """Whether ``name`` is a path or URI and not a plain word, that is, whether it contains a slash or a dot."""
    return "/" in name or "." in name


@contextmanager
def access(uri: Location, what: str = "file") -> Iterator[None]:
    """Turn errors of files and stores inside the block into a MofeError that names ``what`` and ``uri``.

    The block holds nothing but the access: an error of anything else would be blamed on this file.
    """
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
    """OSError, and the other exceptions of those libraries behind fsspec that have been imported."""
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
    """The store's message of an error in one line; "" if it only repeats the path."""
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        text = "" if error.strerror else str(error)  # the operating system's message adds nothing
        return in_one_line(text) if " " in text and "bucket" in text.lower() else ""
    return in_one_line(error) or type(error).__name__


def file_system(path: UPath) -> AbstractFileSystem:
    """The file system of ``path``; a new one in a forked process, because asynchronous ones do not survive a fork.

    Raises:
        MofeError: its library is not installed, or it lies in an archive that cannot be opened.
    """
    try:
        fs = path.fs
    except (ImportError, ValueError, tarfile.TarError, zipfile.BadZipFile) as error:
        raise MofeError(f"cannot open {path}: {in_one_line(error)}") from error
    if getattr(fs, "_pid", os.getpid()) != os.getpid():
        return type(fs)(*fs.storage_args, **fs.storage_options)
    return fs


def kind(path: UPath) -> str:
    """``file``, ``directory``, or "" if there is nothing at ``path``; a missing bucket is an error.

    An empty object is a directory if other objects lie below its name: some tools mark folders in this way.
    """
    with access(path):
        fs = file_system(path)
        try:
            found = fs.info(path.path)
            if found["type"] == "file" and found.get("size") == 0 and not is_local(path):
                below = fs.ls(path.path, detail=False)
                return "directory" if any(name.rstrip("/") != found["name"].rstrip("/") for name in below) else "file"
            return str(found["type"])
        except (FileNotFoundError, NotADirectoryError) as error:
            if _own_words(error):
                raise
            return ""


def glob(pattern: UPath) -> list[UPath]:
    """The files and folders that match ``pattern``, sorted."""
    with access(pattern, "data"):
        found = sorted(file_system(pattern).glob(pattern.path))
    if is_local(pattern):
        return [resolve(name) for name in found]
    return [UPath(pattern.fs.unstrip_protocol(name), **pattern.storage_options) for name in found]


def children(folder: UPath, pattern: str) -> list[UPath]:
    """The files and folders in ``folder`` whose name matches ``pattern``, sorted; empty if there is no such folder."""
    with access(folder, "folder"):
        try:
            names = file_system(folder).ls(folder.path, detail=False)
        except (FileNotFoundError, NotADirectoryError) as error:
            if _own_words(error):
                raise
            return []
    return [folder / name for name in sorted(PurePosixPath(name).name for name in names) if fnmatch(name, pattern)]


def contents(folder: UPath) -> dict[str, str]:
    """The names of what lies in ``folder`` itself, in order, each ``directory`` or ``file``; links to folders too."""
    fs = file_system(folder)
    with access(folder, "folder"):
        found = fs.ls(folder.path, detail=True)
    base = folder.path.rstrip("/")
    inside = ((PurePosixPath(info["name"]).name, info) for info in found if info["name"].rstrip("/") != base)
    return {name: "directory" if info["type"] == "directory" else "file" for name, info in sorted(inside, key=_first)}


def _first(pair: tuple[str, Any]) -> str:
    return pair[0]


def folders(folder: UPath) -> list[str]:
    """The names of the folders in ``folder``, sorted, without links to folders."""
    return [name for name, kind in contents(folder).items() if kind == "directory"]


class Entry(NamedTuple):
    """An entry in the listing of a folder."""

    name: str
    """Path relative to the folder."""
    kind: Literal["file", "link", "marker"]
    """``link``: a folder that is not looked into, such as a link to one. ``marker``: an object that stands for one."""
    size: int | None
    """Bytes of a file, if the listing tells it."""


def entries(folder: UPath) -> list[Entry]:
    """Everything in ``folder`` at any depth but the folders themselves, by name.

    Raises:
        MofeError: a folder cannot be read; the message names it. A hidden one (``.Trash``) is listed instead.
    """
    if is_local(folder):
        return sorted(_scanned(Path(folder.path), ""))
    fs, base = file_system(folder), folder.path.rstrip("/") + "/"
    with access(folder, "folder"):
        own = getattr(type(fs), "_find", None) or type(fs).find
        walks = own in (AbstractFileSystem.find, AsyncFileSystem._find)
        found = fs.find(folder.path, detail=True, **({"on_error": "raise"} if walks else {}))
    listed = {name.removeprefix(base): info for name, info in found.items() if name.rstrip("/") != base[:-1]}
    above = {parent for name in listed for parent in _parents(name.rstrip("/"))}
    return sorted(_remote_entry(name, info, above) for name, info in listed.items())


def _remote_entry(name: str, info: dict[str, Any], above: set[str]) -> Entry:
    is_folder = info["type"] == "directory" or name.endswith("/") or (info.get("size") == 0 and name in above)
    return Entry(name, "marker" if is_folder else "file", info.get("size"))


def _parents(name: str) -> Iterator[str]:
    while "/" in name:
        name = name.rpartition("/")[0]
        yield name


def _scanned(folder: Path, within: str) -> Iterator[Entry]:
    """The entries of a folder on this machine, whose names begin with ``within``."""
    with access(folder, "folder"):
        found = list(os.scandir(folder))
    for item in found:
        name = within + item.name
        if item.is_dir(follow_symlinks=False):
            if item.name.startswith(".") and not os.access(item.path, os.R_OK | os.X_OK):
                yield Entry(name, "link", None)
            else:
                yield from _scanned(folder / item.name, f"{name}/")
        elif item.is_symlink():
            yield Entry(name, "link" if item.is_dir() else "file", None)
        else:
            yield Entry(name, "file", item.stat(follow_symlinks=False).st_size)


def names(folder: UPath) -> list[str]:
    """The files in ``folder`` at any depth, relative to it, sorted; empty if there is no such folder.

    Links to folders are left out, and so are objects that stand for folders.
    """
    return [entry.name for entry in entries(folder) if entry.kind == "file"] if kind(folder) else []


@contextmanager
def local_copy(uri: Location) -> Iterator[Path]:
    """Yield the folder at ``uri`` if it is local, else a copy on this machine, which is removed after the block.

    The copy has the same name as the folder at ``uri``.
    """
    source = resolve(uri)
    if is_local(source):
        yield Path(source.path)
        return
    with tempfile.TemporaryDirectory(prefix="mofe-") as above:
        folder = Path(above) / source.name
        with access(uri, "folder"):
            file_system(source).get(source.path.rstrip("/") + "/", f"{folder}/", recursive=True)
        yield folder


def sha256(path: UPath | Path) -> str:
    """Compute the SHA-256 of a file, which is read once from front to back."""
    digest = hashlib.sha256()
    with reading(UPath(path), "file") as file:
        while piece := file.read(1 << 22):
            digest.update(piece)
    return digest.hexdigest()


def read_bytes(path: UPath, what: str) -> bytes:
    """Read one file; if it is missing or unreadable, the error names ``what`` and the URI."""
    with access(path, what):
        return bytes(file_system(path).cat_file(path.path))


class Named:
    """A file, or a reader of one, whose methods raise a MofeError that names it: see :func:`access`."""

    def __init__(self, inner: Any, uri: Location, what: str):
        self._inner, self._uri, self._what = inner, uri, what

    def __getattr__(self, name: str) -> Any:
        with access(self._uri, self._what):
            value = getattr(self._inner, name)
        if not callable(value):
            return value

        def call(*args: Any, **options: Any) -> Any:
            with access(self._uri, self._what), _readable_parquet(self._uri):
                found = value(*args, **options)
            return self._items(found) if isinstance(found, Iterator) and found is not self._inner else found

        return call

    def __iter__(self) -> Iterator[Any]:
        return self._items(iter(self._inner))

    def _items(self, items: Iterator[Any]) -> Iterator[Any]:
        """The items of an iterator that reads, which raises what reading does."""
        while True:
            with access(self._uri, self._what), _readable_parquet(self._uri):
                try:
                    item = next(items)
                except StopIteration:
                    return
            yield item


@contextmanager
def _readable_parquet(path: Location) -> Iterator[None]:
    """Turn Arrow's errors, which damage causes at any page, into a MofeError that names the file."""
    try:
        yield
    except pa.ArrowMemoryError:  # the caller knows its limit
        raise
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise MofeError(f"{path} is not a readable Parquet file: {in_one_line(error)}") from error


@contextmanager
def reading(path: UPath, what: str) -> Iterator[IO[bytes]]:
    """Open a file to read it from front to back, a few megabytes at a time; what its caller raises is not wrapped."""
    with access(path, what):
        file = file_system(path).open(path.path, "rb")
    with file:
        yield cast(IO[bytes], Named(file, path, what))


@contextmanager
def open_parquet(path: UPath, metadata: pq.FileMetaData | None = None) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file: memory-mapped if it is local, else only the requested ranges are read.

    Args:
        path: path or URI of the file.
        metadata: footer of the file, if it was read before.
    """
    local = is_local(path)
    with ExitStack() as opened:
        with access(path, "Parquet file"), _readable_parquet(path):
            source = (
                path.path if local else opened.enter_context(file_system(path).open(path.path, "rb", cache_type="none"))
            )
            parquet = opened.enter_context(
                pq.ParquetFile(
                    source, metadata=metadata, memory_map=local, pre_buffer=not local, page_checksum_verification=True
                )
            )
        yield cast(pq.ParquetFile, Named(parquet, path, "Parquet file"))


def read_parquet(path: UPath, columns: list[str] | None = None) -> Any:
    """Read a Parquet file at any URI as a ``pyarrow.Table``."""
    with open_parquet(path) as parquet:
        return parquet.read(columns=columns)


def digest_of_listing(uri: Location) -> str:
    """Compute a digest of the files at ``uri``: their relative paths, sizes and versions (etag, checksum or mtime).

    Two digests are equal exactly if no file was added, removed or rewritten. No file content is read.
    """
    root = resolve(uri)
    fs, base = file_system(root), root.path.rstrip("/")
    with access(uri, "data"):
        files = {base: fs.info(base)} if kind(root) == "file" else fs.find(base, detail=True)
    if not files:
        raise MofeError(f"there are no files at {uri}")
    digest = hashlib.sha256()
    for name, info in sorted(files.items()):
        if info.get("islink"):
            with suppress(OSError):
                info["mtime"] = Path(name).stat().st_mtime  # of the link's target, which is read
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
