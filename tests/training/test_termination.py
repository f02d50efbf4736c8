"""SIGTERM while a training lasts."""

import os
import signal
import threading
from types import FrameType

from mofe.training import termination


def test_sigterm_is_noted_and_does_not_end_the_process_until_it_is_over() -> None:
    ended: list[int] = []

    def end(number: int, frame: FrameType | None) -> None:
        ended.append(number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        with termination.deferred() as has_come:
            assert not has_come()
            os.kill(os.getpid(), signal.SIGTERM)
            assert has_come()
            assert ended == []
        os.kill(os.getpid(), signal.SIGTERM)
        assert ended == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_another_thread_than_the_main_one_leaves_signals_alone() -> None:
    before, seen = signal.getsignal(signal.SIGTERM), []

    def train() -> None:
        with termination.deferred() as has_come:
            seen.append((has_come(), signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert seen == [(False, before)]


def test_the_status_is_that_of_a_process_that_sigterm_ended() -> None:
    assert termination.STATUS == 143
