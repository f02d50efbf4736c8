"""In every process with this folder on its path, ``bucket://`` is an object store: the files under ``SHARED_STORE``."""

import os
from typing import Any

import fsspec
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem


class SharedStore(DirFileSystem):
    """An object store that several processes share, of which none sees the folder behind it."""

    protocol = "bucket"
    sep = "/"

    def __init__(self, **options: Any):
        super().__init__(path=os.environ["SHARED_STORE"], fs=LocalFileSystem(auto_mkdir=True), **options)

    def _join(self, path: Any) -> Any:
        """As any store does, and DirFileSystem does not: ``folder/`` is what is in the folder."""
        joined = super()._join(path)
        return f"{joined}/" if isinstance(path, str) and path.endswith("/") else joined


fsspec.register_implementation("bucket", SharedStore, clobber=True)
