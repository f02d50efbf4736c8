"""What the pods of a TrainJob do: told in the log of the pod that watches, and remembered if it is a reason.

A container that fails is started again in its pod, a few times, before the job fails; then Kubernetes deletes the pods.
So a reason is noted when it is seen.
"""

import sys
import threading
from typing import Any

from mofe.errors import server_message
from mofe.training.distributed import LOST_PEER


def pods_of(pods: Any, namespace: str, job: str) -> list[Any]:
    """The pods of a job, by the API's client."""
    return list(pods.list_namespaced_pod(namespace, label_selector=f"jobset.sigs.k8s.io/jobset-name={job}").items)


class NodeWatch:
    """The nodes of one job."""

    def __init__(self, pods: Any, namespace: str, job: str):
        self.pods = pods
        self.namespace = namespace
        self.job = job
        self.reasons: list[str] = []
        self.told: set[tuple[str, str]] = set()
        self.ended: set[tuple[str, int]] = set()
        self.heard: tuple[str, int] | None = None
        self.voice: threading.Thread | None = None

    def look(self) -> None:
        """Tell what is new of every node, and repeat what the first one prints."""
        nodes = pods_of(self.pods, self.namespace, self.job)
        for pod in nodes:
            for waits in _waits(pod):
                self._tell(_number(pod), waits)
            if _has_ended(pod):
                self._note(pod, _restarts(pod))
            elif _restarts(pod):
                self._note(pod, _restarts(pod) - 1, previous=True)
        for pod in nodes:
            speaks = (pod.metadata.name, _restarts(pod))
            if _number(pod) == "0" and pod.status.phase != "Pending" and speaks != self.heard and not self._is_heard():
                self._tell("0", pod.status.phase.lower())
                self.heard = speaks
                self.voice = threading.Thread(target=self._repeat, args=(pod.metadata.name,), daemon=True)
                self.voice.start()

    def hear_out(self, seconds: float) -> None:
        """Let the first node finish what it says."""
        if self.voice:
            self.voice.join(timeout=seconds)

    def reason(self) -> str:
        """Why a node failed last, in its own words; not that it lost one that had failed before; "" if unknown."""
        own = [reason for reason in self.reasons if not LOST_PEER.search(reason)]
        return next(iter([*own[-1:], *self.reasons[-1:]]), "")

    def _is_heard(self) -> bool:
        return self.voice is not None and self.voice.is_alive()

    def _tell(self, node: str, what: str) -> None:
        if (node, what) not in self.told:
            self.told.add((node, what))
            print(f"node {node}: {what}", flush=True)

    def _note(self, pod: Any, tried: int, previous: bool = False) -> None:
        if (pod.metadata.name, tried) in self.ended:
            return
        try:
            log = self.pods.read_namespaced_pod_log(
                pod.metadata.name, self.namespace, container="node", previous=previous, tail_lines=200
            )
        except Exception as error:
            if getattr(error, "status", None) not in (400, 404):  # not gone: perhaps at the next look
                return
            log = ""
        self.ended.add((pod.metadata.name, tried))
        why = _last_words(log)
        if why:
            self.reasons.append(why)
        print(f"node {_number(pod)} failed{': ' * bool(why)}{why}", flush=True)

    def _repeat(self, pod: str) -> None:
        """Print what a node prints, as long as it does."""
        try:
            log = self.pods.read_namespaced_pod_log(
                pod, self.namespace, container="node", follow=True, _preload_content=False
            )
            for piece in log.stream():
                sys.stdout.write(piece.decode(errors="replace"))
                sys.stdout.flush()
        except Exception as error:  # the log is for people; the job says how it ended
            print(f"no more of the first node's log: {server_message(error)}", flush=True)


def _last_words(log: str) -> str:
    """Why a node ended: its own message, or its last line, unless torchrun's report of its processes stands there."""
    lines = [line for line in log.splitlines() if line.strip()]
    said = [line.removeprefix("mofe: ") for line in lines if line.startswith("mofe: ")]
    if said:
        return said[-1]
    return lines[-1] if lines and "ChildFailedError" not in log else ""


def _number(pod: Any) -> str:
    return str((pod.metadata.labels or {}).get("batch.kubernetes.io/job-completion-index", "?"))


def _container(pod: Any) -> Any:
    """What Kubernetes says of the container in which the node runs, if anything yet."""
    return next((c for c in pod.status.container_statuses or [] if c.name == "node"), None)


def _restarts(pod: Any) -> int:
    container = _container(pod)
    return int(container.restart_count or 0) if container else 0


def _has_ended(pod: Any) -> bool:
    """Whether the container failed and was not started again, or not yet."""
    if pod.status.phase == "Failed":
        return True
    container = _container(pod)
    if not container or not container.state or container.state.running:
        return False
    ended = container.state.terminated or (container.last_state and container.last_state.terminated)
    return bool(ended and ended.exit_code)


def _waits(pod: Any) -> list[str]:
    """Why a pod has no place yet, or its container does not run, as Kubernetes says it."""
    unscheduled = [
        condition.message
        for condition in pod.status.conditions or []
        if condition.type == "PodScheduled" and condition.status == "False" and condition.message
    ]
    container = _container(pod)
    state = container.state.waiting if container and container.state else None
    waiting = [state.reason] if state and state.reason else []
    return [f"waits, {why}" for why in unscheduled + waiting] or ["pending"] * (pod.status.phase == "Pending")
