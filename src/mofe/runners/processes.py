"""Runs each stage in its own process, passes its output on at once, and terminates it when the run is terminated.

Each process has its own session, so a signal to the run reaches it only as the SIGTERM that this module sends; finetune
then writes a checkpoint. The signal handler sends it, because kfp runs the stages of a loop in threads, where an
exception of the main thread has no effect.
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
"""Seconds between SIGTERM and SIGKILL, the same as on Kubernetes."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

Send = Callable[[int], None]
"""Function that sends a signal to a stage if it is still running."""


class StageProcesses:
    """The running stages of one run."""

    def __init__(self) -> None:
        self._running: list[Send] = []
        self._signals = 0

    def run(self, command: list[str], environment: dict[str, str], on_output: Callable[[bytes], None]) -> int:
        """Run a stage's command to its end, call ``on_output`` with each piece of output, return the exit status."""
        # kfp and MLflow do not remove their temporary files; a terminated stage may still be writing some
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
                        _read_rest(output, on_output)
                    finally:
                        send(signal.SIGKILL)
                    raise

    @contextmanager
    def stoppable(self, send: Send) -> Iterator[None]:
        """Call ``send`` with the signals that end the run: SIGTERM, and SIGKILL after :data:`TIMEOUT` seconds.

        Raises:
            MofeError: the run has already received a signal.
        """
        self._running.append(send)
        try:
            if self._signals:
                raise MofeError("the run was terminated by a signal")
            yield
        finally:
            self._running.remove(send)

    @contextmanager
    def end_on_signals(self) -> Iterator[None]:
        """Within the context, SIGINT, SIGTERM and SIGHUP end the running stages, and then this process.

        A second signal ends the stages at once. Signals that this process ignores, for example by ``nohup``, remain
        ignored.
        """
        if threading.current_thread() is not threading.main_thread():  # other threads cannot set signal handlers
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
        self._signals += 1
        self._send_all(signal.SIGTERM if self._signals == 1 else signal.SIGKILL)
        late = threading.Timer(TIMEOUT, self._send_all, (signal.SIGKILL,))
        late.daemon = True
        late.start()
        raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)

    def _send_all(self, number: int) -> None:
        for send in tuple(self._running):
            send(number)


def _read_rest(output: int, on_output: Callable[[bytes], None]) -> None:
    """Read the output until all processes of a stage have ended, for at most :data:`TIMEOUT` seconds."""
    end = time.monotonic() + TIMEOUT
    while (left := end - time.monotonic()) > 0 and select.select([output], [], [], left)[0]:
        if not (piece := os.read(output, 1 << 16)):
            return
        on_output(piece)


def _send(group: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, number)
