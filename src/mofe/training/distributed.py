"""Training in several processes: starting them, sharing the work, and exchanging results.

The micro-batches of a step are numbered; process r of W takes those with number ≡ r (mod W). Random numbers depend on
the micro-batch, not on the process. So W processes give the same result as one process that accumulates W times as many
micro-batches.
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
"""Text of gloo's and NCCL's error in a process whose peer failed."""

TIMEOUT = timedelta(hours=1)
"""Longest time that processes wait for one that computes a checksum of the images, or writes a checkpoint."""


def started() -> bool:
    """Whether ``torchrun`` or :func:`launch` started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def launch(function: Callable[..., None], arguments: Mapping[str, Any], processes: int) -> None:
    """Call ``function(**arguments)`` in several processes on this machine, as ``torchrun`` does.

    SIGINT and SIGTERM are sent on to the processes. Once they have ended, this process exits with the signal's status.

    Raises:
        MofeError: a process failed; the message gives its reason.
    """
    with tempfile.TemporaryDirectory() as logs:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=processes,
            run_id=uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            max_restarts=0,  # the pipeline repeats the stage, which resumes from the checkpoint
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
    """Restore the signal handlers afterwards, because torch leaves its own."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handled = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
    before = {number: signal.getsignal(number) for number in handled}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:  # None: not set from Python
                signal.signal(number, handler)


def _call(function: Callable[..., None], arguments: dict[str, Any]) -> None:
    function(**arguments)


def _cause(error: ChildFailedError, logs: str) -> ProcessFailure:
    """The failure that caused the others; torch names the process that ended first, which may only have lost a peer."""
    reported = [ProcessFailure(int(file.parent.name), 0, 1, str(file)) for file in Path(logs).glob("**/error.json")]
    failures = [error.get_first_failure()[1], *reported]
    return min(failures, key=lambda failure: (bool(LOST_PEER.search(_reason(failure))), failure.timestamp))


def _reason(failure: ProcessFailure) -> str:
    """The message of a failure, without the class name if it is a MofeError."""
    text = failure.message if isinstance(failure.message, str) else str(failure.message["message"])
    return text.removeprefix("MofeError: ")


@contextmanager
def process_group() -> Iterator[None]:
    """Join the processes that ``torchrun`` started, if any; only the first process prints."""
    if not started():
        yield
        return
    place = device()
    if place.type != "cpu":
        torch.accelerator.set_device_index(place.index)
    dist.init_process_group("cpu:gloo,cuda:nccl" if place.type == "cuda" else "gloo", timeout=TIMEOUT)
    with contextlib.nullcontext() if is_first() else _silence():
        yield
    dist.destroy_process_group()  # not after an error: the others would report their failure before this process


@contextmanager
def _silence() -> Iterator[None]:
    """Suppress prints and progress bars; errors are still logged, with the traceback."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def num_processes() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Index of this process among those that train together."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_first() -> bool:
    """Whether this is the process that writes files, tracks and prints."""
    return rank() == 0


def is_first_here() -> bool:
    """Whether this is the first process of its machine, which does the work that is needed once per machine."""
    return not started() or os.environ["LOCAL_RANK"] == "0"


def wait_for_all() -> None:
    """Wait until every process has called this function."""
    if dist.is_initialized():
        dist.barrier()


def all_reduce_sum(values: np.ndarray) -> np.ndarray:
    """Sum of ``values`` over all processes, float64; every process gets it."""
    if not dist.is_initialized():
        return values
    total = torch.from_numpy(np.asarray(values, np.float64).copy())
    dist.all_reduce(total)
    return total.numpy()


def all_gather(own: np.ndarray) -> np.ndarray:
    """Join the parts of all processes; process r of W holds the elements r, r + W, r + 2W, … of the whole."""
    if not dist.is_initialized():
        return own
    parts: list[np.ndarray] = [own] * num_processes()
    dist.all_gather_object(parts, own)
    whole = np.empty(sum(len(part) for part in parts), own.dtype)
    for r, part in enumerate(parts):
        whole[r :: num_processes()] = part
    return whole
