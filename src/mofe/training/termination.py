"""Handling of SIGTERM, which a node sends some seconds before it stops: time enough to write a checkpoint."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

STATUS = 128 + signal.SIGTERM
"""Exit status after SIGTERM; it counts as a failure, so Kubernetes tries again."""


@contextmanager
def deferred() -> Iterator[Callable[[], bool]]:
    """Keep SIGTERM from ending the process in the block; yields a function that says whether the signal has come."""
    came = threading.Event()

    def note(number: int, frame: FrameType | None) -> None:
        came.set()

    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield came.is_set
        return
    before = signal.signal(signal.SIGTERM, note)
    try:
        yield came.is_set
    finally:
        signal.signal(signal.SIGTERM, before)
