"""A limit on the memory that reading an untrusted file may take."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from upath import UPath

from mofe.errors import MofeError

MOST = 4 << 30
"""Bytes that a Parquet file may unpack to at once, about ten times the size of 256 photographs."""


@contextmanager
def limit_memory(file: UPath) -> Iterator[None]:
    """Limit the growth of this process to :data:`MOST` bytes on Linux; on other systems there is no limit.

    A few bytes of a compressed page can unpack to gigabytes, and its header cannot be trusted.

    Raises:
        MofeError: the process needed more.
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
    except MemoryError as error:  # includes Arrow's
        raise MofeError(
            f"{file} unpacks to more than {MOST >> 30} GB at once: write it in smaller row groups"
        ) from error
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
