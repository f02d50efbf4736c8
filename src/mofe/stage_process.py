"""Stages in processes of their own: what one says is heard while it runs, and it ends where the run is told to end.

Each has a session of its own, so a signal to the run reaches it in one way only: as SIGTERM, which finetune answers
with a checkpoint. Stages of a loop run in threads of kfp's, which no exception reaches, so the handler passes it on.
"""

import os
import select
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from mofe.errors import MofeError

PATIENCE = 30.0
"""Seconds that a stage has to end by itself, as on Kubernetes."""


class StageProcesses:
    """The processes of one run."""

    def __init__(self) -> None:
        self._running: set[int] = set()
        self._told = 0

    def run(self, command: list[str], environment: dict[str, str], on_output: Callable[[bytes], None]) -> int:
        """Run a stage's command to its end; its exit status. ``on_output`` is called with each piece of its output."""
        if self._told:
            raise MofeError("the run was told to end")
        # kfp and MLflow leave files behind; a stage that is stopped may still be writing some
        with tempfile.TemporaryDirectory(prefix="mofe-", ignore_cleanup_errors=True) as temporary:
            around = {**os.environ, "TMPDIR": temporary, **environment}
            with subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=around, start_new_session=True
            ) as process:
                assert process.stdout is not None
                output = process.stdout.fileno()
                self._running.add(process.pid)
                try:
                    while piece := os.read(output, 1 << 16):
                        on_output(piece)
                    return process.wait()
                except BaseException:
                    _send(process.pid, signal.SIGTERM)
                    try:
                        _hear_out(output, on_output)
                    finally:
                        _send(process.pid, signal.SIGKILL)
                    raise
                finally:
                    self._running.discard(process.pid)

    @contextmanager
    def ended_by_signals(self) -> Iterator[None]:
        """While it lasts, SIGINT and SIGTERM end the stage that runs, and then this process; a second does not wait."""
        if threading.current_thread() is not threading.main_thread():  # which alone may say what a signal does
            yield
            return
        before = {number: signal.signal(number, self._end) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _end(self, number: int, frame: FrameType | None) -> None:
        self._told += 1
        for group in tuple(self._running):
            _send(group, signal.SIGTERM if self._told == 1 else signal.SIGKILL)
        raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)


def _hear_out(output: int, on_output: Callable[[bytes], None]) -> None:
    """Until all processes of a stage have ended, and none longer than :data:`PATIENCE`."""
    end = time.monotonic() + PATIENCE
    while (left := end - time.monotonic()) > 0 and select.select([output], [], [], left)[0]:
        if not (piece := os.read(output, 1 << 16)):
            return
        on_output(piece)


def _send(group: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, number)
