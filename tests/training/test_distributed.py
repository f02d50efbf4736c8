"""What several processes exchange, and how they are started; here, one process plays its part among two.

test_finetune_distributed.py has real ones.
"""

import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig

from mofe.errors import MofeError
from mofe.training import distributed

LOST = "RuntimeError: Connection closed by peer"


class Group:
    """The functions of torch.distributed for a group of two, of which the other has ``others``."""

    def __init__(self, rank: int = 0, others: Any = None):
        self.index, self.others = rank, others
        self.began: list[Any] = []
        self.barriers = 0
        self.is_initialized = lambda: True
        self.get_rank, self.get_world_size = (lambda: rank), (lambda: 2)

    def init_process_group(self, *args: Any, **options: Any) -> None:
        self.began.append((args, options))

    def destroy_process_group(self) -> None:
        self.began.append("destroyed")

    def barrier(self) -> None:
        self.barriers += 1

    def all_reduce(self, tensor: torch.Tensor) -> None:
        tensor += torch.as_tensor(self.others)

    def all_gather_object(self, parts: list[Any], own: Any) -> None:
        assert len(parts) == 2
        parts[:] = [self.others, own] if self.index else [own, self.others]


@pytest.fixture
def join(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Group]:
    """Makes this process one of two: ``join(rank=1)``."""

    def joined(rank: int = 0, others: Any = None) -> Group:
        group = Group(rank, others)
        monkeypatch.setattr(distributed, "dist", group)
        return group

    return joined


def test_one_process_has_nobody_to_exchange_with() -> None:
    values = np.array([1, 2])
    assert (distributed.num_processes(), distributed.rank(), distributed.is_first()) == (1, 0, True)
    assert distributed.all_reduce_sum(values) is values
    assert distributed.all_gather(values) is values
    distributed.wait_for_all()


def test_each_of_two_processes_knows_its_place(join: Callable[..., Group]) -> None:
    for rank in (0, 1):
        group = join(rank)
        assert (distributed.num_processes(), distributed.rank()) == (2, rank)
        assert distributed.is_first() == (rank == 0)
        distributed.wait_for_all()
        assert group.barriers == 1


def test_sums_are_of_all_processes_in_float64(join: Callable[..., Group]) -> None:
    join(others=[10.5, 20.25])
    for dtype in (np.int64, np.float32, np.float64):
        own = np.array([1, 2], dtype)
        total = distributed.all_reduce_sum(own)
        assert total.dtype == np.float64
        assert total.tolist() == [11.5, 22.25]
        assert own.tolist() == [1, 2], "the process's own values are not changed"


@pytest.mark.parametrize(("rank", "own", "others"), [(0, [0, 2, 4], [1, 3]), (1, [1, 3], [0, 2, 4])])
def test_parts_are_joined_in_the_order_in_which_they_were_dealt(
    join: Callable[..., Group], rank: int, own: list[int], others: list[int]
) -> None:
    join(rank, np.array(others, np.int32))
    whole = distributed.all_gather(np.array(own, np.int32))
    assert whole.dtype == np.int32
    assert whole.tolist() == [0, 1, 2, 3, 4]


def test_torchrun_says_which_process_is_the_first_of_its_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the variables that torchrun documents."""
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert not distributed.started()
    assert distributed.is_first_here()
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "run")
    assert distributed.started()
    assert not distributed.is_first_here()
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert distributed.is_first_here()


def test_a_process_that_torchrun_did_not_start_joins_no_group(
    join: Callable[..., Group], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    group = join()
    with distributed.process_group():
        print("words")
    assert (group.began, capsys.readouterr().out) == ([], "words\n")


@pytest.mark.parametrize(
    ("place", "backend", "index"),
    [("cpu", "gloo", None), ("cuda:1", "cpu:gloo,cuda:nccl", 1), ("xpu:1", "gloo", 1)],
)
@pytest.mark.parametrize("rank", [0, 1])
def test_processes_join_on_their_devices_and_the_first_speaks(
    join: Callable[..., Group], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    place: str, backend: str, index: int | None, rank: int,
) -> None:  # fmt: skip
    chosen: list[Any] = []
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "run")
    monkeypatch.setattr(distributed, "device", lambda: torch.device(place))
    monkeypatch.setattr(torch.accelerator, "set_device_index", chosen.append)
    group = join(rank)
    with distributed.process_group():
        print("words")
        print("bar", file=sys.stderr)
        assert group.began == [((backend,), {"timeout": timedelta(hours=1)})]
    assert group.began[1:] == ["destroyed"]
    assert chosen == ([] if index is None else [index])
    assert tuple(capsys.readouterr()) == (("", "") if rank else ("words\n", "bar\n"))


def test_after_an_error_the_group_is_left_as_it_is(
    join: Callable[..., Group], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Or the others would report that they lost a peer before this process reports why."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "run")
    monkeypatch.setattr(distributed, "device", lambda: torch.device("cpu"))
    group = join(1)
    with pytest.raises(MofeError, match="cause"), distributed.process_group():
        raise MofeError("the cause")
    print("heard")
    assert "destroyed" not in group.began
    assert capsys.readouterr().out == "heard\n"


def test_processes_are_started_as_torchrun_does_on_one_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    configs: list[LaunchConfig] = []
    received: list[dict[str, Any]] = []

    def start(config: LaunchConfig, entrypoint: Any) -> Any:
        configs.append(config)
        assert Path(config.logs_specs.root_log_dir).is_dir()
        return entrypoint

    monkeypatch.setattr(distributed, "elastic_launch", start)
    for _ in range(2):
        distributed.launch(lambda **arguments: received.append(arguments), {"a": 1, "function": "f"}, 3)
    assert received == [{"a": 1, "function": "f"}] * 2
    for config in configs:
        assert (config.min_nodes, config.max_nodes, config.nproc_per_node) == (1, 1, 3)
        assert (config.rdzv_backend, config.rdzv_endpoint) == ("c10d", "localhost:0"), "any free port"
        assert config.max_restarts == 0
        assert not Path(config.logs_specs.root_log_dir).exists()
    assert configs[0].run_id != configs[1].run_id, "two at a time do not meet"


def report(folder: Path, rank: int, message: Any, second: int) -> ProcessFailure:
    """What a process of torch writes down when it fails."""
    file = folder / "run" / "attempt_0" / str(rank) / "error.json"
    file.parent.mkdir(parents=True)
    if isinstance(message, dict):
        message = {**message, "extraInfo": {"timestamp": second}}
    file.write_text(json.dumps({"message": message}))
    return ProcessFailure(rank, 1, 1, str(file))


def failed(*failures: ProcessFailure) -> ChildFailedError:
    return ChildFailedError("train", {failure.local_rank: failure for failure in failures})


@pytest.mark.parametrize(
    ("told", "cause"),
    [
        ([(0, "MofeError: no room", 2), (1, LOST, 1)], "process 0 of 3: no room"),
        ([(0, LOST, 1), (2, "ValueError: no", 2), (1, "KeyError: x", 3)], "process 2 of 3: ValueError: no"),
        ([(0, "RuntimeError: remote process exited", 2), (1, "RuntimeError: Broken pipe", 1)],
         "process 1 of 3: RuntimeError: Broken pipe"),
        ([(1, "it says MofeError: within", 1)], "process 1 of 3: it says MofeError: within"),
    ],
    ids=["a lost peer is none", "the earliest", "lost peers alone", "another error"],
)  # fmt: skip
def test_the_process_that_failed_first_is_the_cause(
    monkeypatch: pytest.MonkeyPatch, told: list[tuple[int, str, int]], cause: str
) -> None:
    def launched(config: LaunchConfig, _: Any) -> Any:
        folder = Path(config.logs_specs.root_log_dir)
        failures = [report(folder, rank, {"message": message}, second) for rank, message, second in told]

        def end(*_: Any) -> None:
            raise failed(failures[-1])

        return end

    monkeypatch.setattr(distributed, "elastic_launch", launched)
    with pytest.raises(MofeError) as error:
        distributed.launch(print, {}, 3)
    assert str(error.value) == cause


def test_a_process_that_wrote_nothing_down_gives_what_torch_says(tmp_path: Path) -> None:
    """As one that was killed."""
    killed = ProcessFailure(1, 1, -signal.SIGKILL, str(tmp_path / "none"))
    assert distributed._cause(failed(killed), str(tmp_path)) is killed
    assert distributed._reason(killed).startswith("Signal 9 (SIGKILL) received by PID 1")


def test_a_parent_that_is_terminated_ends_with_the_signals_status(monkeypatch: pytest.MonkeyPatch) -> None:
    def told(*_: object) -> None:
        raise SignalException("terminated", signal.SIGINT)

    monkeypatch.setattr(distributed, "elastic_launch", lambda *_: told)
    with pytest.raises(SystemExit) as end:
        distributed.launch(print, {}, 2)
    assert end.value.code == 130


@pytest.mark.parametrize("fails", [False, True])
def test_handlers_of_signals_are_those_of_before(monkeypatch: pytest.MonkeyPatch, fails: bool) -> None:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
    before = {number: signal.getsignal(number) for number in numbers}

    def start(*_: object) -> Any:
        def run(*_: object) -> None:
            for number in numbers:
                signal.signal(number, signal.SIG_IGN)
            if fails:
                raise OSError("no process")

        return run

    monkeypatch.setattr(distributed, "elastic_launch", start)
    try:
        with pytest.raises(OSError, match="no process") if fails else distributed.contextlib.nullcontext():
            distributed.launch(print, {}, 2)
        assert {number: signal.getsignal(number) for number in numbers} == before
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_handler_that_python_does_not_know_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python's ``getsignal`` gives None for it, and ``signal`` does not take None."""
    changed: list[Any] = []
    known = {signal.SIGINT: signal.SIG_DFL}
    fake = SimpleNamespace(
        **{name: getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT")},
        getsignal=known.get, signal=lambda *args: changed.append(args),
    )  # fmt: skip
    monkeypatch.setattr(distributed, "signal", fake)
    with distributed._own_handlers():
        pass
    assert changed == [(signal.SIGINT, signal.SIG_DFL)]


def test_a_thread_leaves_handlers_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the main thread of Python may set them."""
    called: list[Any] = []
    monkeypatch.setattr(distributed, "elastic_launch", lambda *_: lambda *_: called.append(os.getpid()))
    errors: list[BaseException] = []

    def launch() -> None:
        try:
            distributed.launch(print, {}, 2)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=launch)
    thread.start()
    thread.join()
    assert (called, errors) == ([os.getpid()], [])
