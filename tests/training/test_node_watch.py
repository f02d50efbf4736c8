"""What is told of the pods of a job, one look after the other, against pods as Kubernetes describes them."""

import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from mofe.training.node_watch import NodeWatch, pods_of


def state(**kind: Any) -> SimpleNamespace:
    """State of a container: running, waiting or terminated."""
    return SimpleNamespace(**{"running": None, "waiting": None, "terminated": None, **kind})


RUNS, GONE = state(running=SimpleNamespace()), state(terminated=SimpleNamespace(exit_code=1))
CLOSED = "Connection closed by peer"


def pod(
    name: str, number: str | None, phase: str = "Running", container: Any = None, conditions: Any = None
) -> SimpleNamespace:
    labels = None if number is None else {"batch.kubernetes.io/job-completion-index": number}
    beside = SimpleNamespace(name="istio", restart_count=7, state=GONE, last_state=GONE)
    statuses = [beside, container] if container else None
    status = SimpleNamespace(phase=phase, container_statuses=statuses, conditions=conditions)
    return SimpleNamespace(metadata=SimpleNamespace(name=name, labels=labels), status=status)


def node(now: Any, restarts: int | None = 0, before: Any = None) -> SimpleNamespace:
    return SimpleNamespace(name="node", restart_count=restarts, state=now, last_state=before)


class RefusedError(Exception):
    """Answer of the API."""

    def __init__(self, status: int):
        super().__init__(f"status {status}")
        self.status = status


class API:
    """Answers for the namespace ``ml``, in which the job ``job`` has the pods ``now`` and their logs."""

    def __init__(self) -> None:
        self.now: list[SimpleNamespace] = []
        self.logs: dict[tuple[str, bool], Any] = {}
        self.spoken: dict[str, Any] = {}
        self.followed: list[str] = []
        self.asked: list[str] = []

    def list_namespaced_pod(self, namespace: str, label_selector: str) -> SimpleNamespace:
        assert (namespace, label_selector) == ("ml", "jobset.sigs.k8s.io/jobset-name=job")
        return SimpleNamespace(items=self.now)

    def read_namespaced_pod_log(
        self, name: str, namespace: str, container: str, previous: bool = False, tail_lines: int = 0,
        follow: bool = False, _preload_content: bool = True,
    ) -> Any:  # fmt: skip
        assert (namespace, container) == ("ml", "node")
        if follow:
            assert _preload_content is False
            self.followed.append(name)
            words = self.spoken.get(name, iter(()))
            answer = words if isinstance(words, Exception) else SimpleNamespace(stream=lambda: words)
        else:
            assert tail_lines == 200
            self.asked.append(name)
            answer = self.logs[name, previous]
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def api() -> API:
    return API()


@pytest.fixture
def watch(api: API) -> NodeWatch:
    return NodeWatch(api, "ml", "job")


def told(watch: NodeWatch, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Look, and let the first node finish."""
    capsys.readouterr()
    watch.report()
    watch.finish_log(10)
    return capsys.readouterr().out.splitlines()


def test_pods_are_found_by_the_name_of_their_job(api: API) -> None:
    api.now = [pod("a", "0")]
    assert pods_of(api, "ml", "job") == api.now


def test_what_keeps_a_node_is_told_once(api: API, watch: NodeWatch, capsys: pytest.CaptureFixture[str]) -> None:
    def condition(kind: str, status: str, message: str | None) -> SimpleNamespace:
        return SimpleNamespace(type=kind, status=status, message=message)

    full = [
        condition("PodScheduled", "False", "no room"),
        condition("PodScheduled", "True", "there was none"),
        condition("Ready", "False", "not ready"),
        condition("PodScheduled", "False", None),
    ]
    pulls = node(state(waiting=SimpleNamespace(reason="ErrImagePull")))
    api.now = [
        pod("a", "1", "Pending", conditions=full),
        pod("b", "2", "Pending", pulls),
        pod("c", "3", "Pending", node(state(waiting=SimpleNamespace(reason=None)))),
        pod("d", None, "Pending", node(None)),
        pod("e", "4", "Running", node(RUNS)),
    ]
    expected = ["node 1: waits, no room", "node 2: waits, ErrImagePull", "node 3: pending", "node ?: pending"]
    assert told(watch, capsys) == expected
    assert told(watch, capsys) == []


def test_only_the_first_node_is_repeated_as_soon_as_it_runs(
    api: API, watch: NodeWatch, capsys: pytest.CaptureFixture[str]
) -> None:
    api.spoken = {"a": iter([b"epoch 1\n", b"\xff\n"])}
    api.now = [pod("a", "0", "Pending"), pod("b", "1", "Running", node(RUNS))]
    assert told(watch, capsys) == ["node 0: pending"]
    assert api.followed == []
    api.now = [pod("a", "0", "Running", node(RUNS)), pod("b", "1", "Running", node(RUNS))]
    assert told(watch, capsys) == ["node 0: running", "epoch 1", "\N{REPLACEMENT CHARACTER}"]
    assert told(watch, capsys) == []
    assert api.followed == ["a"]


def test_a_first_node_that_was_started_again_is_repeated_when_it_has_finished(api: API, watch: NodeWatch) -> None:
    goes_on = threading.Event()

    def words() -> Iterator[bytes]:
        goes_on.wait(10)
        yield b"words\n"

    api.logs = {("a", True): ""}
    api.spoken = {"a": words()}
    api.now = [pod("a", "0", "Running", node(RUNS))]
    watch.report()
    watch.finish_log(0.01)
    assert watch.follower is not None
    assert watch.follower.daemon, "it does not keep a process that is to end"
    api.now = [pod("a", "0", "Running", node(RUNS, restarts=1))]
    watch.report()
    assert api.followed == ["a"], "it still speaks"
    goes_on.set()
    watch.finish_log(10)
    watch.report()
    assert api.followed == ["a", "a"]


def test_nobody_is_heard_out_where_nobody_spoke(watch: NodeWatch) -> None:
    watch.finish_log(0)


def test_a_log_that_breaks_off_is_told(api: API, watch: NodeWatch, capsys: pytest.CaptureFixture[str]) -> None:
    api.spoken = {"a": RefusedError(500)}
    api.now = [pod("a", "0", "Running", node(RUNS))]
    assert told(watch, capsys) == ["node 0: running", "the first node's log cannot be read further: status 500"]


@pytest.mark.parametrize(
    ("failed", "previous"),
    [
        (pod("b", "1", "Failed", node(GONE)), False),
        (pod("b", "1", "Failed"), False),
        (pod("b", "1", "Running", node(GONE)), False),
        (pod("b", "1", "Running", node(GONE, restarts=None)), False),
        (pod("b", "1", "Running", node(state(waiting=SimpleNamespace(reason=None)), 1, GONE)), False),
        (pod("b", "1", "Running", node(RUNS, 1, GONE)), True),
    ],
    ids=["failed", "without a container", "ended", "never restarted", "waits to be restarted", "restarted"],
)
def test_a_container_that_failed_gives_its_reason_once(
    api: API, watch: NodeWatch, failed: SimpleNamespace, previous: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    api.now, api.logs = [failed], {("b", previous): "begins\nmofe: out of room\n"}
    assert told(watch, capsys) == ["node 1 failed: out of room"]
    assert watch.reason() == "out of room"
    assert told(watch, capsys) == []


def test_a_container_that_fails_twice_gives_two_reasons(
    api: API, watch: NodeWatch, capsys: pytest.CaptureFixture[str]
) -> None:
    api.now, api.logs = [pod("b", "1", "Running", node(RUNS, 1, GONE))], {("b", True): "mofe: first\n"}
    assert told(watch, capsys) == ["node 1 failed: first"]
    api.now, api.logs = [pod("b", "1", "Failed", node(GONE, 1, GONE))], {("b", False): "mofe: second\n"}
    assert told(watch, capsys) == ["node 1 failed: second"]
    assert watch.reason() == "second"


def test_a_failure_seen_before_the_restart_is_not_told_again_after_it(
    api: API, watch: NodeWatch, capsys: pytest.CaptureFixture[str]
) -> None:
    api.logs = {("b", False): "mofe: first\n", ("b", True): "mofe: first\n"}
    api.now = [pod("b", "1", "Running", node(GONE))]
    assert told(watch, capsys) == ["node 1 failed: first"]
    api.now = [pod("b", "1", "Running", node(RUNS, 1, GONE))]
    assert told(watch, capsys) == []


@pytest.mark.parametrize(
    "well",
    [
        pod("b", "1", "Succeeded", node(state(terminated=SimpleNamespace(exit_code=0)))),
        pod("b", "1", "Running", node(RUNS, before=GONE)),
        pod("b", "1", "Running", node(None, before=GONE)),
        pod("b", "1", "Running", node(state())),
        pod("b", "1", "Running"),
    ],
    ids=["succeeded", "runs again", "without a state", "neither", "without a container"],
)
def test_a_container_that_did_not_fail_is_not_told(
    api: API, watch: NodeWatch, well: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    api.now = [well]
    assert told(watch, capsys) == []
    assert api.asked == []
    assert watch.reason() == ""


@pytest.mark.parametrize("status", [400, 404])
def test_a_log_that_is_gone_gives_no_reason(
    api: API, watch: NodeWatch, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    api.now, api.logs = [pod("b", "1", "Failed", node(GONE))], {("b", False): RefusedError(status)}
    assert told(watch, capsys) == ["node 1 failed"]
    assert (told(watch, capsys), watch.reason()) == ([], "")


@pytest.mark.parametrize("error", [RefusedError(503), OSError("no route to host")])
def test_a_log_that_does_not_come_now_is_asked_for_again(
    api: API, watch: NodeWatch, error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    api.now, api.logs = [pod("b", "1", "Failed", node(GONE))], {("b", False): error}
    assert told(watch, capsys) == []
    api.logs = {("b", False): "mofe: out of room\n"}
    assert told(watch, capsys) == ["node 1 failed: out of room"]


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        ("mofe: first\nmofe: mofe: last\nafter\n", "mofe: last"),
        ("Traceback\nKilled\n \n", "Killed"),
        ("torch…ChildFailedError:\n====\n", ""),
        ("mofe: no bucket\ntorch…ChildFailedError:\n====\n", "no bucket"),
        ("it says mofe: within\n", "it says mofe: within"),
        ("", ""),
        (" \n", ""),
    ],
)
def test_the_reason_is_its_own_message_or_its_last_line(api: API, watch: NodeWatch, log: str, reason: str) -> None:
    api.now, api.logs = [pod("b", "1", "Failed", node(GONE))], {("b", False): log}
    watch.report()
    assert watch.reason() == reason


@pytest.mark.parametrize(
    ("logs", "reason"),
    [
        (["first", "second", "third"], "third"),
        (["first", "second", CLOSED], "second"),
        ([CLOSED, f"again: {CLOSED}", f"thrice: {CLOSED}"], f"thrice: {CLOSED}"),
        ([], ""),
    ],
)
def test_a_lost_peer_is_the_reason_only_where_there_is_no_other(
    api: API, watch: NodeWatch, logs: list[str], reason: str
) -> None:
    api.now = [pod(f"p{i}", str(i), "Failed", node(GONE)) for i in range(1, len(logs) + 1)]
    api.logs = {(f"p{i}", False): f"mofe: {log}\n" for i, log in enumerate(logs, start=1)}
    watch.report()
    assert watch.reason() == reason
