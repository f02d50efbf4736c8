"""The TrainJob and the requests around it, as the APIs of Kubernetes and Kubeflow Trainer define them.

No server answers here; test_nodes.py has one.
"""

import json
import re
import signal
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from kubernetes.client import CoreV1Api, CustomObjectsApi
from upath import UPath

from mofe.errors import MofeError
from mofe.training import nodes

JOBS = ("trainer.kubeflow.org", "v1alpha1", "ml", "trainjobs")
"""Group, version, namespace and plural, by which Kubernetes finds an object of a custom resource."""
ARGUMENTS = {
    "images": "s3://b/images",
    "model": "s3://b/model",
    "num_workers": 4,
    "fold_lambda": True,
    "checkpoints": "",
}
SHARED_MEMORY = {"name": "shm", "emptyDir": {"medium": "Memory"}}
PULL, TOLERATION = {"name": "pull"}, {"key": "nvidia.com/gpu", "operator": "Exists"}


def pod(spec: Mapping[str, Any] | None = None, **main: Any) -> dict[str, Any]:
    """A pod with a container ``main`` beside another."""
    containers = [{"name": "wait", "image": "argoexec"}, {"name": "main", "image": "train:1", **main}]
    return {"metadata": {"name": "watcher", "uid": "uid-1"}, "spec": {"containers": containers, **(spec or {})}}


def trainer_of(of: Mapping[str, Any], **resources: Any) -> dict[str, Any]:
    trainer: dict[str, Any] = nodes.train_job(of, ARGUMENTS, 2, resources)["spec"]["trainer"]
    return trainer


def node_of(of: Mapping[str, Any]) -> dict[str, Any]:
    """The template of a node's pod in the patch of the runtime."""
    (patch,) = nodes.train_job(of, ARGUMENTS, 2, {})["spec"]["runtimePatches"]
    (job,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    template: dict[str, Any] = job["template"]["spec"]["template"]
    return template


def test_the_job_as_a_whole() -> None:
    watcher = pod(
        {
            "serviceAccountName": "runner",
            "imagePullSecrets": [PULL],
            "nodeSelector": {"pool": "gpu"},
            "tolerations": [TOLERATION],
            "securityContext": {"fsGroup": 100},
            "restartPolicy": "Never",
            "volumes": [SHARED_MEMORY, {"name": "disk", "emptyDir": {}}, {"name": "ca", "configMap": {"name": "ca"}}],
        },
        volumeMounts=[{"name": "shm", "mountPath": "/dev/shm"}, {"name": "ca", "mountPath": "/etc/ca"}],
        resources={"requests": {"cpu": "8"}, "limits": {"memory": "32Gi"}},
    )
    watcher["metadata"]["labels"] = {"pipeline/runid": "run-1", "other": "x"}
    job = nodes.train_job(watcher, ARGUMENTS, 3, {"nvidia.com/gpu": 8})
    name = job["metadata"].pop("name")
    assert re.fullmatch("mofe-finetune-[0-9a-f]{8}", name)
    node = {
        "metadata": {"labels": {"pipeline/runid": "run-1", "sidecar.istio.io/inject": "false"}},
        "spec": {
            "serviceAccountName": "runner",
            "imagePullSecrets": [PULL],
            "nodeSelector": {"pool": "gpu"},
            "tolerations": [TOLERATION],
            "securityContext": {"fsGroup": 100},
            "volumes": [SHARED_MEMORY],
            "containers": [{"name": "node", "volumeMounts": [{"name": "shm", "mountPath": "/dev/shm"}]}],
        },
    }
    replicated = {"name": "node", "template": {"spec": {"template": node}}}
    assert job == {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": {
            "labels": {"pipeline/runid": "run-1"},
            "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "watcher", "uid": "uid-1"}],
        },
        "spec": {
            "runtimeRef": {"name": "torch-distributed"},
            "trainer": {
                "image": "train:1",
                "command": ["torchrun", "-m", "mofe", "stage", "finetune"],
                "args": ["--images", "s3://b/images", "--model", "s3://b/model", "--num-workers", "4",
                         "--fold-lambda", "--checkpoints", ""],
                "env": [],
                "numNodes": 3,
                "resourcesPerNode": {
                    "requests": {"cpu": "8", "nvidia.com/gpu": "8"},
                    "limits": {"memory": "32Gi", "nvidia.com/gpu": "8"},
                },
            },
            "runtimePatches": [
                {
                    "manager": "mofe.github.io/finetune",
                    "trainingRuntimeSpec": {"template": {"spec": {"replicatedJobs": [replicated]}}},
                }
            ],
        },
    }  # fmt: skip


def test_a_pod_with_the_least_is_copied_too() -> None:
    job = nodes.train_job(pod(), {**ARGUMENTS, "fold_lambda": False}, 2, {})
    assert job["metadata"]["labels"] == {}
    trainer = job["spec"]["trainer"]
    assert trainer["env"] == []
    assert trainer["resourcesPerNode"] == {"requests": {}, "limits": {}}
    assert trainer["numProcPerNode"] == 1
    assert trainer["args"][6] == "--no-fold-lambda"
    assert node_of(pod()) == {"metadata": {"labels": {"sidecar.istio.io/inject": "false"}}, "spec": {}}


def test_the_name_of_the_job_is_its_models() -> None:
    def name(**arguments: Any) -> str:
        return str(nodes.train_job(pod(), {**ARGUMENTS, **arguments}, 2, {})["metadata"]["name"])

    assert name() == name(num_workers=1)
    assert name() != name(model="s3://b/other")


def test_without_a_container_main_the_first_is_copied() -> None:
    other = pod()
    other["spec"]["containers"][1]["name"] = "sidecar"
    assert trainer_of(other)["image"] == "argoexec"


@pytest.mark.parametrize(
    ("volume", "mounts"),
    [
        (SHARED_MEMORY, {}),
        ({"name": "ca", "configMap": {}}, {"volumeMounts": [{"name": "ca", "mountPath": "/ca"}]}),
        (SHARED_MEMORY, {"volumeMounts": [{"name": "ca", "mountPath": "/ca"}]}),
    ],
    ids=["no mount", "no memory", "another mount"],
)
def test_a_node_has_shared_memory_only_where_the_pod_has(volume: dict[str, Any], mounts: dict[str, Any]) -> None:
    assert node_of(pod({"volumes": [volume]}, **mounts))["spec"] == {}


@pytest.mark.parametrize(
    ("own", "overrides", "requests", "limits"),
    [
        ({"requests": {"cpu": "8"}}, {"cpu": 4}, {"cpu": "4"}, {}),
        ({"limits": {"cpu": "8"}}, {"cpu": 4}, {"cpu": "4"}, {"cpu": "4"}),
        ({}, {"cpu": 0.5, "memory": "8Gi"}, {"cpu": "0.5", "memory": "8Gi"}, {"memory": "8Gi"}),
        ({}, {"rdma/ib": 2.0}, {"rdma/ib": "2"}, {"rdma/ib": "2"}),
        ({"requests": {"nvidia.com/gpu": "8"}, "limits": {"nvidia.com/gpu": 8}}, {"nvidia.com/gpu": 0}, {}, {}),
        ({"requests": {"cpu": 1}, "limits": {"memory": 1024}}, {}, {"cpu": "1"}, {"memory": "1024"}),
    ],
    ids=["cpu is not limited", "unless it was", "a fraction", "a whole number", "none", "numbers"],
)
def test_resources_that_differ_replace_those_of_the_pod(
    own: dict[str, Any], overrides: dict[str, Any], requests: dict[str, str], limits: dict[str, str]
) -> None:
    before = json.dumps(own)
    assert trainer_of(pod(resources=own), **overrides)["resourcesPerNode"] == {"requests": requests, "limits": limits}
    assert json.dumps(own) == before


@pytest.mark.parametrize("name", ["nvidia.com/gpu", "amd.com/gpu", "vendor.example/GPU"])
def test_the_runtime_starts_one_process_for_each_gpu(name: str) -> None:
    assert "numProcPerNode" not in trainer_of(pod(), **{name: 2})


def test_nodes_get_references_and_the_values_that_they_need(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MOFE_TRACKING_FOLDER", "KFP_RUN_ID", "MY_MOFE_NAME", "KFP_RUN_ID_2"):
        monkeypatch.setenv(name, f"value of {name}")
    monkeypatch.delenv("MOFE_NOT_SET", raising=False)
    secret = {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}
    from_map = {"name": "MLFLOW_NAME", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "k"}}}
    own = [
        secret,
        {"name": "MLFLOW_TRACKING_URI", "value": "of the pod's specification"},
        {"name": "MOFE_TRACKING_FOLDER"},
        {"name": "KFP_RUN_ID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['pipeline/runid']"}}},
        {"name": "MOFE_NOT_SET"},
        {"name": "MY_MOFE_NAME"},
        {"name": "KFP_RUN_ID_2"},
        from_map,
    ]
    assert trainer_of(pod(env=own))["env"] == [
        secret,
        *({"name": n, "value": f"value of {n}"} for n in ("MLFLOW_TRACKING_URI", "MOFE_TRACKING_FOLDER", "KFP_RUN_ID")),
        from_map,
    ]


def test_outputs_that_kubeflow_shows_here_are_brought_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The nodes write to the store; this pod's folder of the same output is not in the store."""
    calls: list[Any] = []

    class Cluster:
        def own_pod(self) -> dict[str, Any]:
            return pod()

        def running(self, job: dict[str, Any]) -> Any:
            calls.append(job)
            return nullcontext("job")

        def wait_for(self, name: str, num_nodes: int) -> None:
            calls.append((name, num_nodes))
            for output in ("model/config.json", "history/config.json"):
                file = UPath(f"memory://train-on-nodes/{output}")
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(output)

    monkeypatch.setattr(nodes, "MOUNTS", {f"{tmp_path}/s3/": "memory://train-on-nodes/"})
    monkeypatch.setattr(nodes, "Cluster", Cluster)
    mounted, elsewhere = f"{tmp_path}/s3", "memory://elsewhere"
    places = {"images": f"{mounted}/images", "features": f"{elsewhere}/features", "partition": f"{mounted}/partition",
              "model": f"{mounted}/model", "history": "memory://train-on-nodes/history"}  # fmt: skip
    nodes.train_on_nodes(
        {**places, "checkpoints": f"{mounted}/kept", "epochs": 2}, num_nodes=3, resources={"memory": "8Gi"}
    )
    job, waited = calls
    args = job["spec"]["trainer"]["args"]
    assert dict(zip(args[::2], args[1::2], strict=True)) == {
        "--images": "memory://train-on-nodes/images", "--features": "memory://elsewhere/features",
        "--partition": "memory://train-on-nodes/partition", "--model": "memory://train-on-nodes/model",
        "--history": "memory://train-on-nodes/history", "--checkpoints": "memory://train-on-nodes/kept",
        "--epochs": "2",
    }  # fmt: skip
    assert job["spec"]["trainer"]["numNodes"] == 3
    assert job["spec"]["trainer"]["resourcesPerNode"]["requests"] == {"memory": "8Gi"}
    assert waited == ("job", 3)
    assert [str(p.relative_to(mounted)) for p in Path(mounted).rglob("*") if p.is_file()] == ["model/config.json"]
    for name in ("images", "checkpoints"):
        with pytest.raises(MofeError, match=f"^{name} is at /data/kept, where other nodes cannot read or write"):
            nodes.train_on_nodes({**places, "checkpoints": "", name: "/data/kept"}, 2, {})


class RefusedError(Exception):
    """Answer of the API."""

    def __init__(self, status: int):
        super().__init__(f"status {status}")
        self.status = status


class Jobs:
    """The part of the client that creates, reads and deletes TrainJobs; each request takes the next of its answers."""

    def __init__(self, **answers: list[Any]):
        self.answers = answers
        self.requests: list[str] = []
        self.deletions: list[dict[str, Any]] = []

    def _answer(self, request: str) -> Any:
        self.requests.append(request)
        answers = self.answers.get(request, [])
        answer = answers.pop(0) if answers else None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def create_namespaced_custom_object(self, *where: Any) -> Any:
        assert where == (*JOBS, JOB)
        return self._answer("create")

    def get_namespaced_custom_object(self, *where: str) -> Any:
        assert where == (*JOBS, "job")
        return self._answer("read")

    def delete_namespaced_custom_object(self, *where: str, **options: Any) -> Any:
        assert where == (*JOBS, "job")
        self.deletions.append(options)
        return self._answer("delete")

    def list_namespaced_pod(self, namespace: str, label_selector: str) -> Any:
        assert (namespace, label_selector) == ("ml", "jobset.sigs.k8s.io/jobset-name=job")
        return SimpleNamespace(items=self._answer("list") or [])


JOB = {"metadata": {"name": "job"}, "spec": {"trainer": {"numNodes": 2}}}


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds of each sleep, none of which is slept."""
    seconds: list[float] = []
    monkeypatch.setattr(nodes, "time", SimpleNamespace(sleep=seconds.append))
    monkeypatch.setattr(nodes, "MAX_MISSES", 3)
    return seconds


def cluster(**answers: list[Any]) -> tuple[nodes.Cluster, Jobs]:
    found, jobs = object.__new__(nodes.Cluster), Jobs(**answers)
    found.namespace, found.jobs, found.pods = "ml", jobs, jobs
    return found, jobs


def conditions(*pairs: tuple[str, str]) -> dict[str, Any]:
    return {"status": {"conditions": [{"type": t, "status": s, "message": f"{t} it is"} for t, s in pairs]}}


def test_the_job_is_deleted_with_its_pods_at_the_end() -> None:
    found, jobs = cluster()
    before = signal.getsignal(signal.SIGTERM)
    with found.running(JOB) as name:
        assert (name, jobs.requests) == ("job", ["create"])
        with pytest.raises(SystemExit) as stopped:
            signal.raise_signal(signal.SIGTERM)
        assert stopped.value.code == 143, "the status of a process that SIGTERM ends"
    assert jobs.requests == ["create", "delete"]
    assert jobs.deletions == [{"propagation_policy": "Background"}], "not Orphan, which would leave the pods"
    assert signal.getsignal(signal.SIGTERM) is before


def test_so_it_is_after_an_error() -> None:
    found, jobs = cluster()
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(MofeError, match="failed"), found.running(JOB):
        raise MofeError("training failed")
    assert jobs.requests == ["create", "delete"]
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RefusedError(403), "this pod's service account may not create a TrainJob in the namespace ml: grant it"),
        (RefusedError(404), "this cluster has no TrainJob: install Kubeflow Trainer 2.2 or newer, or num_nodes=1$"),
        (OSError("no route to host"), "Kubernetes did not let this pod create a TrainJob: no route to host$"),
    ],
    ids=["forbidden", "not installed", "out of reach"],
)
def test_a_job_that_cannot_be_created_is_not_deleted(error: Exception, message: str) -> None:
    before = signal.getsignal(signal.SIGTERM)
    found, jobs = cluster(create=[error])
    with pytest.raises(MofeError, match=f"^{message}"), found.running(JOB):
        pytest.fail("there is no job")
    assert jobs.requests == ["create"]
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    ("error", "printed"),
    [
        (RefusedError(404), ""),
        (RefusedError(500), "the TrainJob job could not be deleted: status 500\n"),
        (OSError("no route to host"), "the TrainJob job could not be deleted: no route to host\n"),
    ],
    ids=["is gone", "refused", "out of reach"],
)
def test_a_job_that_stays_is_reported(error: Exception, printed: str, capsys: pytest.CaptureFixture[str]) -> None:
    found, _ = cluster(delete=[error])
    with found.running(JOB):
        capsys.readouterr()
    assert capsys.readouterr().out == printed


def test_a_job_of_an_earlier_try_is_replaced_when_its_pods_are_gone(slept: list[float]) -> None:
    exists = RefusedError(409)
    found, jobs = cluster(create=[exists, exists], list=[OSError("no route to host"), []])
    with found.running(JOB):
        assert jobs.requests == ["create", "delete", "list", "list", "create", "list", "create"]
    assert slept == [10.0, 10.0], "pods that cannot be listed may still run, as may a job that still exists"


def test_a_job_of_an_earlier_try_that_stays_is_an_error(slept: list[float]) -> None:
    found, jobs = cluster(create=[RefusedError(409)], list=[["pod"]] * 3)
    with pytest.raises(MofeError, match="the TrainJob job of an earlier try cannot be deleted"), found.running(JOB):
        pytest.fail("it runs")
    assert jobs.requests == ["create", "delete", *["list"] * 3]
    assert slept == [10.0] * 3


@pytest.mark.parametrize("first", [{}, {"status": {}}, conditions(("Failed", "False"), ("Complete", "Unknown"))])
def test_a_job_goes_on_until_a_condition_is_true(slept: list[float], first: dict[str, Any]) -> None:
    found, jobs = cluster(read=[first, conditions(("Suspended", "True")), conditions(("Complete", "True"))])
    found.wait_for("job", 2)
    assert jobs.requests.count("read") == 3
    assert slept == [10.0, 10.0]


@pytest.mark.parametrize(("reason", "told"), [("out of room", "out of room"), ("", "Failed it is")])
def test_the_log_is_printed_to_its_end_and_names_the_cause(
    monkeypatch: pytest.MonkeyPatch, slept: list[float], reason: str, told: str
) -> None:
    waited: list[float] = []

    def watch(*args: Any) -> Any:
        assert args == (found.pods, "ml", "job")
        return SimpleNamespace(report=lambda: None, finish_log=waited.append, reason=lambda: reason)

    monkeypatch.setattr(nodes, "NodeWatch", watch)
    found, _ = cluster(read=[conditions(("Failed", "True"))])
    with pytest.raises(MofeError, match=f"training on 2 nodes failed: {told}"):
        found.wait_for("job", 2)
    assert waited == [10.0]
    found, _ = cluster(read=[conditions(("Complete", "True"))])
    found.wait_for("job", 2)
    assert (waited, slept) == ([10.0] * 2, [])


def test_a_cluster_may_be_out_of_reach_for_a_while(slept: list[float]) -> None:
    """At most for two requests in a row, where the third is the last that may fail."""
    away, goes_on = OSError("no route to host"), conditions()
    found, _ = cluster(read=[away, away, goes_on, away, away, conditions(("Complete", "True"))])
    found.wait_for("job", 2)
    assert slept == [10.0] * 5
    found, jobs = cluster(read=[away] * 4)
    with pytest.raises(MofeError, match="the state of the TrainJob job cannot be read: no route to host"):
        found.wait_for("job", 2)
    assert jobs.requests == ["read"] * 3


def test_a_job_that_is_deleted_is_not_waited_for(slept: list[float]) -> None:
    found, _ = cluster(read=[OSError("no route to host"), RefusedError(404)])
    with pytest.raises(MofeError, match="the TrainJob job was deleted while it ran"):
        found.wait_for("job", 2)
    assert slept == [10.0]


@pytest.mark.parametrize(
    ("variables", "name"),
    [({"KFP_POD_NAME": "own", "HOSTNAME": "host"}, "own"), ({"HOSTNAME": "host"}, "host")],
)
def test_a_pod_knows_its_own_name(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], name: str) -> None:
    def read(*args: Any, **options: Any) -> Any:
        assert (args, options) == ((name, "ml"), {"_preload_content": False}), "the JSON, not objects of the client"
        return SimpleNamespace(data=json.dumps(pod()).encode())

    for variable in ("KFP_POD_NAME", "HOSTNAME"):
        monkeypatch.delenv(variable, raising=False)
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    found, _ = cluster()
    found.pods = SimpleNamespace(read_namespaced_pod=read)
    assert found.own_pod() == pod()


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RefusedError(403), "this pod's service account may not read its own pod in the namespace ml: grant it"),
        (RefusedError(404), "Kubernetes did not let this pod read its own pod: status 404"),
        (OSError("no route to host"), "Kubernetes did not let this pod read its own pod: no route to host"),
    ],
    ids=["forbidden", "not found", "out of reach"],
)
def test_a_pod_that_cannot_be_read_says_why(error: Exception, message: str) -> None:
    def read(*_: Any, **__: Any) -> Any:
        raise error

    found, _ = cluster()
    found.pods = SimpleNamespace(read_namespaced_pod=read)
    with pytest.raises(MofeError, match=f"^{message}"):
        found.own_pod()


def test_a_pod_finds_its_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Kubernetes tells a pod's containers the namespace in a file."""
    loaded: list[str] = []
    monkeypatch.setattr(nodes, "NAMESPACE", tmp_path / "namespace")
    monkeypatch.setattr("kubernetes.config.load_incluster_config", lambda: loaded.append("of the pod"))
    monkeypatch.setattr("kubernetes.config.load_kube_config", lambda: loaded.append("of the user"))
    contexts = ([], {"name": "c", "context": {"cluster": "c", "user": "u"}})
    monkeypatch.setattr("kubernetes.config.list_kube_config_contexts", lambda: contexts)
    assert nodes.Cluster().namespace == "default", "that of Kubernetes where a context names none"
    contexts[1]["context"]["namespace"] = "own"  # type: ignore[index]
    assert nodes.Cluster().namespace == "own"
    nodes.NAMESPACE.write_text("ml\n")
    found = nodes.Cluster()
    assert found.namespace == "ml"
    assert isinstance(found.jobs, CustomObjectsApi)
    assert isinstance(found.pods, CoreV1Api)
    assert loaded == ["of the user", "of the user", "of the pod"]
