"""Several processes, one training: who starts them, how the work is shared, what only the first may do.

A step's micro-batches are numbered; process r of W takes those with number ≡ r (mod W). All randomness belongs to the
number, so W processes compute what one process computes that accumulates W times as many micro-batches.
"""

import contextlib
import io
import os
import re
import signal
import sys
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from mofe.device import device
from mofe.errors import MofeError

LOST_PEER = re.compile("by peer|remote process|Broken pipe")
"""What gloo and NCCL say in a process whose peer failed."""

TIMEOUT = timedelta(hours=1)
"""How long processes wait for one that hashes the images, or writes a checkpoint."""


def started() -> bool:
    """Whether this is one of the processes that ``torchrun``, or :func:`launch`, started."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def launch(function: Callable[..., None], arguments: Mapping[str, Any], processes: int) -> None:
    """Call ``function(**arguments)`` in several processes of this machine, as ``torchrun`` would.

    A signal to end is sent on to them, and once they have ended so does this process, with the signal's exit status.

    Raises:
        MofeError: one of them failed; with its reason.
    """
    with tempfile.TemporaryDirectory() as logs:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=processes,
            run_id=uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            max_restarts=0,  # the pipeline tries again, from the checkpoint
            logs_specs=DefaultLogsSpecs(log_dir=logs),
        )
        try:
            with _own_handlers():
                elastic_launch(config, _call)(function, dict(arguments))
        except SignalException as error:
            sys.exit(128 + error.sigval)
        except ChildFailedError as error:
            cause = _cause(error, logs)
            raise MofeError(f"process {cause.local_rank} of {processes}: {_reason(cause)}") from error


@contextmanager
def _own_handlers() -> Iterator[None]:
    """Signals mean afterwards what they meant before; torch leaves its handlers, where it may set them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handled = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
    before = {number: signal.getsignal(number) for number in handled}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:  # of one that was not set from Python
                signal.signal(number, handler)


def _call(function: Callable[..., None], arguments: dict[str, Any]) -> None:
    function(**arguments)


def _cause(error: ChildFailedError, logs: str) -> ProcessFailure:
    """The failure that caused the others, whose peer was lost then; torch names the process that ended first."""
    told = [ProcessFailure(int(file.parent.name), 0, 1, str(file)) for file in Path(logs).glob("**/error.json")]
    failures = [error.get_first_failure()[1], *told]
    return min(failures, key=lambda failure: (bool(LOST_PEER.search(_reason(failure))), failure.timestamp))


def _reason(failure: ProcessFailure) -> str:
    """The text of a MofeError without the name of its class; other errors keep theirs."""
    text = failure.message if isinstance(failure.message, str) else str(failure.message["message"])
    return text.removeprefix("MofeError: ")


@contextmanager
def process_group() -> Iterator[None]:
    """Join the processes that ``torchrun`` started, if it did; all but the first fall silent."""
    if not started():
        yield
        return
    place = device()
    if place.type != "cpu":
        torch.accelerator.set_device_index(place.index)
    dist.init_process_group("cpu:gloo,cuda:nccl" if place.type == "cuda" else "gloo", timeout=TIMEOUT)
    with contextlib.nullcontext() if is_first() else _silence():
        yield
    dist.destroy_process_group()  # not after an error: the others would fail, and be heard, before this process


@contextmanager
def _silence() -> Iterator[None]:
    """No prints and no progress bars; errors still reach the log, with the traceback."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def num_processes() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_first() -> bool:
    """Whether this is the process that writes files, reports, and talks."""
    return rank() == 0


def is_first_here() -> bool:
    """Whether this is the one process of its machine that does what need not be done twice there."""
    return not started() or os.environ["LOCAL_RANK"] == "0"


def wait_for_all() -> None:
    """Until every process has come here."""
    if dist.is_initialized():
        dist.barrier()


def all_reduce_sum(values: np.ndarray) -> np.ndarray:
    """The sum over all processes, float64, on each of them."""
    if not dist.is_initialized():
        return values
    total = torch.from_numpy(np.asarray(values, np.float64).copy())
    dist.all_reduce(total)
    return total.numpy()


def all_gather(own: np.ndarray) -> np.ndarray:
    """What element 0, 1, 2, … of the whole is, when process r holds its elements r, r + W, r + 2W, …"""
    if not dist.is_initialized():
        return own
    parts: list[np.ndarray] = [own] * num_processes()
    dist.all_gather_object(parts, own)
    whole = np.empty(sum(len(part) for part in parts), own.dtype)
    for r, part in enumerate(parts):
        whole[r :: num_processes()] = part
    return whole
