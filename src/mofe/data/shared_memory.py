"""Explains errors of loader processes that cannot start or hand over images: shared memory is too small."""

from collections.abc import Iterator
from contextlib import contextmanager

from mofe.errors import MofeError, in_one_line

_SIGNS = ("shared memory", "bus error", "shm")
"""Words of torch's errors that are about shared memory, in lower case."""


@contextmanager
def shared_memory_named(num_workers: int) -> Iterator[None]:
    """Turn errors of shared memory inside the block into a MofeError; others pass.

    Args:
        num_workers: number of loader processes; 0 needs no shared memory.

    Raises:
        MofeError: names /dev/shm, and what to do.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        words = str(error)
        of_an_image = "in DataLoader worker process" in words
        if not num_workers or of_an_image or not _is_of_memory(error):
            raise
        raise MofeError(
            f"{num_workers} loader processes cannot share memory with this one, which /dev/shm is for: "
            f"{in_one_line(words)}. Set num_workers=0, or give the container more (docker run --shm-size=1g)"
        ) from error


def _is_of_memory(error: Exception) -> bool:
    """Whether it is an error of the operating system, as where a lock cannot be made, or torch names shared memory."""
    return isinstance(error, OSError) or any(sign in str(error).lower() for sign in _SIGNS)
