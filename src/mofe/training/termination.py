"""A node that is taken away says so with SIGTERM, some seconds before; a training uses them to write a checkpoint."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

STATUS = 128 + signal.SIGTERM
"""Exit status of a process that ended so: a failure to Kubernetes, which tries again."""


@contextmanager
def deferred() -> Iterator[Callable[[], bool]]:
    """While it lasts, SIGTERM does not end the process; what it yields says whether one has come."""
    came = threading.Event()

    def note(number: int, frame: FrameType | None) -> None:
        came.set()

    if threading.current_thread() is not threading.main_thread():  # which alone may say what a signal does
        yield came.is_set
        return
    before = signal.signal(signal.SIGTERM, note)
    try:
        yield came.is_set
    finally:
        signal.signal(signal.SIGTERM, before)
