"""Watches the pods of a TrainJob: prints their states and the first node's log, and records why a node failed.

Kubernetes restarts a failed container a few times in its pod. Then the job fails, and Kubernetes deletes the pods. So a
reason must be recorded as soon as it is seen.
"""

import sys
import threading
from typing import Any

from mofe.errors import server_message
from mofe.training.distributed import LOST_PEER


def pods_of(pods: Any, namespace: str, job: str) -> list[Any]:
    """List the pods of a job by the client ``pods`` of Kubernetes' API."""
    return list(pods.list_namespaced_pod(namespace, label_selector=f"jobset.sigs.k8s.io/jobset-name={job}").items)


class NodeWatch:
    """Watches the nodes of one job."""

    def __init__(self, pods: Any, namespace: str, job: str):
        self.pods = pods
        self.namespace = namespace
        self.job = job
        self.reasons: list[str] = []
        self.printed: set[tuple[str, str]] = set()
        self.recorded: set[tuple[str, int]] = set()
        self.followed: tuple[str, int] | None = None
        self.follower: threading.Thread | None = None

    def report(self) -> None:
        """Print what is new for every node, record failures, and follow the first node's log."""
        nodes = pods_of(self.pods, self.namespace, self.job)
        for pod in nodes:
            for reason in _waiting_reasons(pod):
                self._print_once(_number(pod), reason)
            if _has_failed(pod):
                self._record_failure(pod, _restarts(pod))
            elif _restarts(pod):
                self._record_failure(pod, _restarts(pod) - 1, previous=True)
        for pod in nodes:
            attempt = (pod.metadata.name, _restarts(pod))
            is_new = attempt != self.followed and not self._is_following()
            if _number(pod) == "0" and pod.status.phase != "Pending" and is_new:
                self._print_once("0", pod.status.phase.lower())
                self.followed = attempt
                self.follower = threading.Thread(target=self._follow, args=(pod.metadata.name,), daemon=True)
                self.follower.start()

    def finish_log(self, seconds: float) -> None:
        """Wait until the first node's log is printed, for at most ``seconds``."""
        if self.follower:
            self.follower.join(timeout=seconds)

    def reason(self) -> str:
        """The node's message of the last failure; failures caused by another node count last; "" if unknown."""
        own = [reason for reason in self.reasons if not LOST_PEER.search(reason)]
        return next(iter([*own[-1:], *self.reasons[-1:]]), "")

    def _is_following(self) -> bool:
        return self.follower is not None and self.follower.is_alive()

    def _print_once(self, node: str, state: str) -> None:
        if (node, state) not in self.printed:
            self.printed.add((node, state))
            print(f"node {node}: {state}", flush=True)

    def _record_failure(self, pod: Any, attempt: int, previous: bool = False) -> None:
        if (pod.metadata.name, attempt) in self.recorded:
            return
        try:
            log = self.pods.read_namespaced_pod_log(
                pod.metadata.name, self.namespace, container="node", previous=previous, tail_lines=200
            )
        except Exception as error:
            if getattr(error, "status", None) not in (400, 404):  # the log still exists: the next call may read it
                return
            log = ""
        self.recorded.add((pod.metadata.name, attempt))
        why = _failure_message(log)
        if why:
            self.reasons.append(why)
        print(f"node {_number(pod)} failed{': ' * bool(why)}{why}", flush=True)

    def _follow(self, pod: str) -> None:
        """Print a node's log until it ends."""
        try:
            log = self.pods.read_namespaced_pod_log(
                pod, self.namespace, container="node", follow=True, _preload_content=False
            )
            for piece in log.stream():
                sys.stdout.write(piece.decode(errors="replace"))
                sys.stdout.flush()
        except Exception as error:  # the job's state does not depend on the log
            print(f"the first node's log cannot be read further: {server_message(error)}", flush=True)


def _failure_message(log: str) -> str:
    """The last message of mofe in a log, or else its last line; "" if the log ends with torchrun's own report."""
    lines = [line for line in log.splitlines() if line.strip()]
    messages = [line.removeprefix("mofe: ") for line in lines if line.startswith("mofe: ")]
    if messages:
        return messages[-1]
    return lines[-1] if lines and "ChildFailedError" not in log else ""


def _number(pod: Any) -> str:
    return str((pod.metadata.labels or {}).get("batch.kubernetes.io/job-completion-index", "?"))


def _container(pod: Any) -> Any:
    """Status of the container in which the node runs; None if Kubernetes does not report it yet."""
    return next((c for c in pod.status.container_statuses or [] if c.name == "node"), None)


def _restarts(pod: Any) -> int:
    container = _container(pod)
    return int(container.restart_count or 0) if container else 0


def _has_failed(pod: Any) -> bool:
    """Whether the container failed and does not run again."""
    if pod.status.phase == "Failed":
        return True
    container = _container(pod)
    if not container or not container.state or container.state.running:
        return False
    ended = container.state.terminated or (container.last_state and container.last_state.terminated)
    return bool(ended and ended.exit_code)


def _waiting_reasons(pod: Any) -> list[str]:
    """Kubernetes' reasons why a pod is not scheduled, or its container does not run, yet."""
    unscheduled = [
        condition.message
        for condition in pod.status.conditions or []
        if condition.type == "PodScheduled" and condition.status == "False" and condition.message
    ]
    container = _container(pod)
    state = container.state.waiting if container and container.state else None
    waiting = [state.reason] if state and state.reason else []
    return [f"waits, {why}" for why in unscheduled + waiting] or ["pending"] * (pod.status.phase == "Pending")
