"""A bound on what reading a foreign file may take."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from upath import UPath

from mofe.errors import MofeError

MOST = 4 << 30
"""Bytes that a Parquet file may unpack to at once: some ten times what 256 photographs take."""


@contextmanager
def bounded(file: UPath) -> Iterator[None]:
    """Let this process grow by :data:`MOST` bytes at most, on Linux; elsewhere nothing is bounded.

    A few bytes of a compressed page can stand for gigabytes, which no header says truly.

    Raises:
        MofeError: it needed more.
    """
    if sys.platform != "linux":
        yield
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * os.sysconf("SC_PAGE_SIZE") + MOST
    resource.setrlimit(resource.RLIMIT_AS, (limit if soft == resource.RLIM_INFINITY else min(limit, soft), hard))
    try:
        yield
    except MemoryError as error:  # Arrow's, too
        raise MofeError(
            f"{file} unpacks to more than {MOST >> 30} GB at once: write it in smaller row groups"
        ) from error
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
