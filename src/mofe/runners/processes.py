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
from functools import partial
from types import FrameType

from mofe.errors import MofeError

TIMEOUT = 30.0
"""Seconds that a stage has to end by itself, as on Kubernetes."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

Send = Callable[[int], None]
"""Sends a signal to what runs, if it still does."""


class StageProcesses:
    """What runs for one run."""

    def __init__(self) -> None:
        self._running: list[Send] = []
        self._told = 0

    def run(self, command: list[str], environment: dict[str, str], on_output: Callable[[bytes], None]) -> int:
        """Run a stage's command to its end; its exit status. ``on_output`` is called with each piece of its output."""
        # kfp and MLflow leave files behind; a stage that is stopped may still be writing some
        with tempfile.TemporaryDirectory(prefix="mofe-", ignore_cleanup_errors=True) as temporary:
            around = {**os.environ, "TMPDIR": temporary, **environment}
            with subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=around, start_new_session=True
            ) as process:
                assert process.stdout is not None
                output = process.stdout.fileno()
                send = partial(_send, process.pid)
                try:
                    with self.stoppable(send):
                        while piece := os.read(output, 1 << 16):
                            on_output(piece)
                        return process.wait()
                except BaseException:
                    send(signal.SIGTERM)
                    try:
                        _hear_out(output, on_output)
                    finally:
                        send(signal.SIGKILL)
                    raise

    @contextmanager
    def stoppable(self, send: Send) -> Iterator[None]:
        """While it lasts, ``send`` gets the signal that ends the run: SIGTERM, and SIGKILL after :data:`TIMEOUT`.

        Raises:
            MofeError: the run has been told to end.
        """
        self._running.append(send)
        try:
            if self._told:
                raise MofeError("the run was told to end")
            yield
        finally:
            self._running.remove(send)

    @contextmanager
    def ended_by_signals(self) -> Iterator[None]:
        """While it lasts, SIGINT, SIGTERM and SIGHUP end what runs, and then this process; a second does not wait.

        Not those that are ignored, as by ``nohup``.
        """
        if threading.current_thread() is not threading.main_thread():  # which alone may say what a signal does
            yield
            return
        before = {number: signal.getsignal(number) for number in SIGNALS}
        handled = {number: old for number, old in before.items() if old not in (signal.SIG_IGN, None)}
        for number in handled:
            signal.signal(number, self._end)
        try:
            yield
        finally:
            for number, handler in handled.items():
                signal.signal(number, handler)

    def _end(self, number: int, frame: FrameType | None) -> None:
        self._told += 1
        self._send_all(signal.SIGTERM if self._told == 1 else signal.SIGKILL)
        late = threading.Timer(TIMEOUT, self._send_all, (signal.SIGKILL,))
        late.daemon = True
        late.start()
        raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)

    def _send_all(self, number: int) -> None:
        for send in tuple(self._running):
            send(number)


def _hear_out(output: int, on_output: Callable[[bytes], None]) -> None:
    """Until all processes of a stage have ended, and none longer than :data:`TIMEOUT`."""
    end = time.monotonic() + TIMEOUT
    while (left := end - time.monotonic()) > 0 and select.select([output], [], [], left)[0]:
        if not (piece := os.read(output, 1 << 16)):
            return
        on_output(piece)


def _send(group: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, number)
