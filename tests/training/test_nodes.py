"""finetune on several nodes, against a server that answers as Kubernetes does and, if asked, runs the job's nodes."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import torch
import yaml
from kfp import dsl
from kubeflow_trainer_api.models import TrainerV1alpha1TrainJob
from safetensors.torch import load_file

from mofe.errors import MofeError
from mofe.stages.finetune import finetune
from mofe.training import nodes

pytestmark = pytest.mark.integration

RECIPE = {
    "epochs": 2, "probe_epochs": 5, "probe_learning_rate": 0.01, "batch_size": 32, "micro_batch_size": 16,
    "learning_rate": 1e-3, "warmup_epochs": 0.5, "augmentation": "none", "validation_fraction": 0.2, "num_workers": 0,
    "precision": "fp32", "fold_lambda": False,
}  # fmt: skip
IN_MEMORY = {name: f"memory://way/{name}" for name in (*nodes.INPUTS, *nodes.OUTPUTS)}
RUN_ID = {"fieldPath": "metadata.labels['pipeline/runid']"}
SECRET = {"name": "AWS_SECRET_ACCESS_KEY", "valueFrom": {"secretKeyRef": {"name": "mofe-credentials", "key": "k"}}}
POD = {
    "metadata": {"name": "watcher", "uid": "uid-1", "labels": {"pipeline/runid": "run-1", "other": "x"}},
    "spec": {
        "serviceAccountName": "pipeline-runner",
        "nodeSelector": {"pool": "gpu"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "imagePullSecrets": [{"name": "pull"}],
        "volumes": [
            {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": "8Gi"}},
            {"name": "var-run-argo", "emptyDir": {}},
        ],
        "containers": [
            {"name": "wait", "image": "argoexec"},
            {
                "name": "main",
                "image": "registry.example/team/mofe-train:0.1.0-0123456789ab",
                "env": [
                    SECRET,
                    {"name": "KFP_RUN_ID", "valueFrom": {"fieldRef": RUN_ID}},
                    {"name": "KFP_POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                    {"name": "ARGO_TEMPLATE", "value": "{}"},
                ],
                "volumeMounts": [
                    {"name": "shared-memory", "mountPath": "/dev/shm"},
                    {"name": "var-run-argo", "mountPath": "/var/run/argo"},
                ],
                "resources": {
                    "requests": {"cpu": "8", "memory": "32Gi", "nvidia.com/gpu": "0"},
                    "limits": {"memory": "32Gi", "nvidia.com/gpu": "0"},
                },
            },
        ],
    },
}  # fmt: skip


class Kubernetes(BaseHTTPRequestHandler):
    """Answers for one namespace with one pod and one TrainJob; ``server.seen`` says how the job fares."""

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, content: Any, status: int = 200) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain" if isinstance(content, bytes) else "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _parts(self) -> tuple[Any, str, dict[str, list[str]]]:
        seen = self.server.seen  # type: ignore[attr-defined]
        split = urlsplit(self.path)
        seen.calls.append(f"{self.command} {split.path}")
        return seen, split.path, parse_qs(split.query)

    def do_POST(self) -> None:
        seen, path, _ = self._parts()
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if path != "/apis/trainer.kubeflow.org/v1alpha1/namespaces/ml/trainjobs" or seen.refuse:
            self._answer({"message": "trainjobs is forbidden"}, seen.refuse or 404)
            return
        if seen.left:
            seen.left -= bool(seen.deleted)  # it takes a while to go
            self._answer({"message": "already exists"}, 409)
            return
        seen.job = body
        seen.start(body)
        self._answer(body, 201)

    def do_GET(self) -> None:
        seen, path, query = self._parts()
        if path == "/api/v1/namespaces/ml/pods/watcher":
            self._answer(POD)
        elif path.startswith("/apis/trainer.kubeflow.org/v1alpha1/namespaces/ml/trainjobs/"):
            if seen.gone:
                self._answer({"message": "not found"}, 404)
            else:
                self._answer({**seen.job, "status": seen.status()})
        elif path == "/api/v1/namespaces/ml/pods":
            wanted = query["labelSelector"][0]
            assert wanted.startswith("jobset.sigs.k8s.io/jobset-name=mofe-finetune-")
            items = [
                {
                    "metadata": {"name": name, "labels": {"batch.kubernetes.io/job-completion-index": str(index)}},
                    "spec": {"containers": []},
                    "status": {"phase": phase, **dict(*more)},
                }
                for index, (name, phase, *more) in enumerate(seen.pods())
            ]
            self._answer({"apiVersion": "v1", "kind": "PodList", "items": items})
        elif path.endswith("/log"):
            assert query["container"] == ["node"]
            previous = "-previous" * (query.get("previous") == ["True"])
            log = seen.log(path.split("/")[-2] + previous)
            self._answer({"message": "try later"}, 503) if log is None else self._answer(log)

    def do_DELETE(self) -> None:
        seen, path, _ = self._parts()
        seen.deleted.append(path.rpartition("/")[2])
        self._answer({"status": "Success"})


@pytest.fixture
def kubernetes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    monkeypatch.setattr(nodes, "POLL_INTERVAL", 0.05)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Kubernetes)
    seen = SimpleNamespace(
        calls=[], deleted=[], job=None, refuse=0, gone=False, left=0, start=lambda job: None, status=lambda: {},
        pods=lambda: [], log=lambda pod: b"",
    )  # fmt: skip
    server.seen = seen  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    config = {
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u", "namespace": "ml"}}],
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
        "users": [{"name": "u", "user": {"token": "canary-token"}}],
    }  # fmt: skip
    seen.config = tmp_path / "kubeconfig"
    seen.config.write_text(yaml.safe_dump(config))
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(seen.config))
    monkeypatch.setenv("KFP_POD_NAME", "watcher")
    monkeypatch.setenv("KFP_RUN_ID", "run-1")
    yield seen
    server.shutdown()
    server.server_close()


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``bucket://`` is an object store for this process and the nodes, and a pod sees it as Kubeflow shows it."""
    monkeypatch.setenv("SHARED_STORE", str(tmp_path / "store"))
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "shared_store")
    sys.modules.pop("sitecustomize", None)
    __import__("sitecustomize")
    monkeypatch.setattr(nodes, "MOUNTS", {f"{tmp_path}/s3/": "bucket://here/"})
    return tmp_path / "store" / "here"


def ended(kind: str, message: str = "") -> dict[str, Any]:
    return {"conditions": [{"type": kind, "status": "True", "message": message, "reason": kind,
                            "lastTransitionTime": "2026-01-31T00:00:00Z"}]}  # fmt: skip


def run_nodes(job: dict[str, Any], seen: SimpleNamespace, folder: Path) -> None:
    """What Kubeflow Trainer and its runtime torch-distributed do with a job, here with processes for pods."""
    trainer = job["spec"]["trainer"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = str(Path(__file__).parents[1] / "shared_store")
    started = []
    for rank in range(trainer["numNodes"]):
        environment = {
            **os.environ,
            **{v["name"]: v["value"] for v in trainer["env"] if "value" in v},
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": f"{shared}:{os.environ.get('PYTHONPATH', '')}",
            "PET_NNODES": str(trainer["numNodes"]), "PET_NPROC_PER_NODE": str(trainer["numProcPerNode"]),
            "PET_NODE_RANK": str(rank), "PET_MASTER_ADDR": "127.0.0.1", "PET_MASTER_PORT": str(port),
            "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "",
        }  # fmt: skip
        with (folder / f"node-{rank}.log").open("wb") as log:
            command = [*trainer["command"], *trainer["args"]]
            started.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
    names = [f"node-{rank}" for rank in range(len(started))]

    def phase(process: subprocess.Popen[bytes]) -> str:
        return {None: "Running", 0: "Succeeded"}.get(process.poll(), "Failed")

    def status() -> dict[str, Any]:
        phases = {phase(process) for process in started}
        if "Running" in phases:
            return {}
        return ended("Failed", "a job failed") if "Failed" in phases else ended("Complete")

    seen.status = status
    seen.pods = lambda: [(name, phase(process)) for name, process in zip(names, started, strict=True)]

    def log(pod: str) -> bytes:
        started[0].wait()
        return (folder / f"{pod}.log").read_bytes()

    seen.log = log


def in_the_store(paths: SimpleNamespace, store: Path, seen_at: Path) -> dict[str, str]:
    """The inputs, in the store; where the pod sees them, and where it shall write."""
    store.mkdir(parents=True)
    for name in nodes.INPUTS:
        Path(getattr(paths, name)).rename(store / name)
    return {name: str(seen_at / name) for name in (*nodes.INPUTS, *nodes.OUTPUTS)}


def test_two_nodes_compute_what_one_process_does(
    trained: Callable[..., SimpleNamespace], kubernetes: SimpleNamespace, store: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    paths = trained("alone", **RECIPE)
    places = in_the_store(paths, store, tmp_path / "s3")
    kubernetes.start = lambda job: run_nodes(job, kubernetes, tmp_path)
    capsys.readouterr()
    finetune(**places, **RECIPE, num_nodes=2, checkpoints="bucket://here/checkpoints")  # type: ignore[arg-type]
    assert capsys.readouterr().out.count("epoch 2: loss") == 1, "what the first node says is said here"
    alone, both = (load_file(f"{folder}/model.safetensors") for folder in (paths.model, tmp_path / "s3" / "model"))
    for name in alone:
        torch.testing.assert_close(both[name], alone[name], atol=1e-4, rtol=1e-3)
    assert (tmp_path / "s3" / "history").is_dir()
    assert (store / "model" / "config.json").is_file()
    assert len(list((store / "checkpoints").glob("*/step-*"))) == 2
    assert kubernetes.deleted == [kubernetes.job["metadata"]["name"]]


def test_a_failure_on_a_node_is_this_failure(
    trained: Callable[..., SimpleNamespace], kubernetes: SimpleNamespace, store: Path, tmp_path: Path
) -> None:
    places = in_the_store(trained("alone", **{**RECIPE, "epochs": 0}), store, tmp_path / "s3")
    kubernetes.start = lambda job: run_nodes(job, kubernetes, tmp_path)
    wrong = {**RECIPE, "micro_batch_size": 48, "batch_size": 96}
    with pytest.raises(MofeError, match=r"training on 2 nodes failed: \d+ training images do not give each of 2"):
        finetune(**places, **wrong, num_nodes=2)  # type: ignore[arg-type]
    assert kubernetes.deleted == [kubernetes.job["metadata"]["name"]]


def submitted(kubernetes: SimpleNamespace, **options: Any) -> dict[str, Any]:
    """The TrainJob, as the server got it."""
    kubernetes.status = lambda: ended("Complete")
    finetune(**IN_MEMORY, **{"num_nodes": 3, **options})  # type: ignore[arg-type]
    return dict(kubernetes.job)


def test_the_job_is_one_that_kubeflow_trainer_takes(kubernetes: SimpleNamespace) -> None:
    job = submitted(kubernetes, node_resources={"nvidia.com/gpu": 8.0, "rdma/ib": "1"})
    assert TrainerV1alpha1TrainJob.from_dict(job).to_dict() == job, "no field that it does not know"
    assert job["metadata"]["ownerReferences"] == [
        {"apiVersion": "v1", "kind": "Pod", "name": "watcher", "uid": "uid-1"}
    ]
    trainer = job["spec"]["trainer"]
    assert trainer["image"] == "registry.example/team/mofe-train:0.1.0-0123456789ab"
    assert (trainer["numNodes"], trainer.get("numProcPerNode")) == (3, None)
    assert trainer["resourcesPerNode"] == {
        "requests": {"cpu": "8", "memory": "32Gi", "nvidia.com/gpu": "8", "rdma/ib": "1"},
        "limits": {"memory": "32Gi", "nvidia.com/gpu": "8", "rdma/ib": "1"},
    }
    assert trainer["env"] == [SECRET, {"name": "KFP_RUN_ID", "value": "run-1"}], "Secrets by reference alone"
    (patch,) = job["spec"]["runtimePatches"]
    (replicated,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    assert replicated["name"] == "node"
    pod, own = replicated["template"]["spec"]["template"]["spec"], POD["spec"]
    for field in ("serviceAccountName", "nodeSelector", "tolerations", "imagePullSecrets"):
        assert pod[field] == own[field]  # type: ignore[index]
    assert [volume["name"] for volume in pod["volumes"]] == ["shared-memory"]
    assert pod["containers"] == [{"name": "node", "volumeMounts": [{"name": "shared-memory", "mountPath": "/dev/shm"}]}]


def test_without_accelerators_a_node_has_one_process(kubernetes: SimpleNamespace) -> None:
    trainer = submitted(kubernetes)["spec"]["trainer"]
    assert trainer["numProcPerNode"] == 1
    assert trainer["resourcesPerNode"]["limits"] == {"memory": "32Gi"}


@pytest.mark.parametrize("resource", ["nvidia.com/mig-1g.10gb", "rdma/ib"])
def test_so_it_has_with_what_trainer_takes_for_no_gpu(kubernetes: SimpleNamespace, resource: str) -> None:
    assert submitted(kubernetes, node_resources={resource: 2})["spec"]["trainer"]["numProcPerNode"] == 1


def test_the_nodes_get_the_arguments(kubernetes: SimpleNamespace) -> None:
    args = submitted(kubernetes, fold_lambda=False, min_learning_rate=1e-7, checkpoints="")["spec"]["trainer"]["args"]
    assert "--no-fold-lambda" in args
    assert args[args.index("--min-learning-rate") + 1] == "1e-07"
    assert args[args.index("--images") + 1] == "memory://way/images"
    assert args[args.index("--checkpoints") + 1] == ""
    assert "--num-nodes" not in args


def test_checkpoints_that_kubeflow_shows_here_are_where_the_nodes_find_them(kubernetes: SimpleNamespace) -> None:
    args = submitted(kubernetes, checkpoints="/s3/bucket/checkpoints")["spec"]["trainer"]["args"]
    assert args[args.index("--checkpoints") + 1] == "s3://bucket/checkpoints"


@pytest.mark.parametrize(
    ("refusal", "message"),
    [(403, "service account may not create a TrainJob in the namespace ml"), (404, "install Kubeflow Trainer 2.2"),
     (422, "did not let this pod create a TrainJob: trainjobs is forbidden")],
)  # fmt: skip
def test_a_cluster_that_refuses_is_said(kubernetes: SimpleNamespace, refusal: int, message: str) -> None:
    kubernetes.refuse = refusal
    with pytest.raises(MofeError, match=message):
        submitted(kubernetes)


def test_a_job_that_somebody_deletes_is_said(kubernetes: SimpleNamespace) -> None:
    kubernetes.gone = True
    with pytest.raises(MofeError, match="was deleted while it ran"):
        submitted(kubernetes)


def test_what_a_killed_try_left_ends_before_the_next_begins(kubernetes: SimpleNamespace) -> None:
    kubernetes.left, kubernetes.status = 3, lambda: ended("Failed", "as was to be seen")
    looks = [[("a", "Running")]]  # of that try; the job's own have none
    kubernetes.pods = lambda: looks.pop() if looks else []
    places = {name: f"memory://left/{name}" for name in (*nodes.INPUTS, *nodes.OUTPUTS)}
    for _ in range(2):
        with pytest.raises(MofeError, match="as was to be seen"):
            finetune(**places, num_nodes=2)
    name = kubernetes.job["metadata"]["name"]
    assert kubernetes.deleted == [name] * 3, "once before, and each time at the end"
    assert [call.split()[0] for call in kubernetes.calls[:6]] == ["GET", "POST", "DELETE", "GET", "GET", "POST"]


def started(restarts: int) -> dict[str, Any]:
    state = {"running": {"startedAt": "2026-01-31T00:00:00Z"}}
    container = {"name": "node", "restartCount": restarts, "image": "i", "imageID": "i", "ready": True, "state": state}
    return {"containerStatuses": [container]}


def test_a_reason_is_remembered_when_the_container_is_started_again_and_its_pod_deleted(
    kubernetes: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    looks = [
        [("a", "Running", started(0)), ("b", "Running", started(0))],
        [("a", "Running", started(1)), ("b", "Running", started(1))],
        [("a", "Running", started(1)), ("b", "Running", started(1))],
        [],
    ]
    kubernetes.pods = lambda: looks.pop(0) if len(looks) > 1 else looks[0]
    kubernetes.status = lambda: ended("Failed", "jobset failed") if len(looks) == 1 else {}
    said = b"mofe: there is no bucket\ntorch...ChildFailedError:\n=====\n"
    logs = {"a": [b"begins\n"], "a-previous": [b"mofe: Connection closed by peer\n"], "b-previous": [None, said]}
    kubernetes.log = lambda which: logs[which].pop(0) if len(logs[which]) > 1 else logs[which][0]
    with pytest.raises(MofeError, match="training on 2 nodes failed: there is no bucket"):
        finetune(**IN_MEMORY, num_nodes=2)
    told = capsys.readouterr().out
    assert told.count("node 1 failed: there is no bucket") == 1
    assert told.count("begins") == 2, "the first node is heard again when it was started again"


def test_the_reason_is_that_of_the_last_failure_of_a_container_that_waits_to_be_started_again(
    kubernetes: SimpleNamespace,
) -> None:
    failed = {"terminated": {"exitCode": 1, "reason": "Error", "startedAt": None, "finishedAt": None}}
    waits = started(1)
    waits["containerStatuses"][0].update(state={"waiting": {"reason": "CrashLoopBackOff"}}, lastState=failed)
    looks = [[("a", "Running", started(0))], [("a", "Running", started(1))], [("a", "Running", waits)], []]
    kubernetes.pods = lambda: looks.pop(0) if len(looks) > 1 else looks[0]
    kubernetes.status = lambda: ended("Failed", "jobset failed") if len(looks) == 1 else {}
    logs = {"a": b"mofe: out of room\n", "a-previous": b"mofe: the store did not answer\n"}
    kubernetes.log = logs.__getitem__
    with pytest.raises(MofeError, match="training on 2 nodes failed: out of room"):
        finetune(**IN_MEMORY, num_nodes=2)


def test_why_a_node_does_not_start_is_told(kubernetes: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    why = "0/1 nodes are available: 1 Insufficient nvidia.com/gpu."
    unscheduled = {"conditions": [{"type": "PodScheduled", "status": "False", "message": why}]}
    looks = iter([{}, {}, {}, ended("Complete")])
    kubernetes.pods = lambda: [("a", "Running", started(0)), ("b", "Pending", unscheduled)]
    kubernetes.status = lambda: next(looks)
    finetune(**IN_MEMORY, num_nodes=2)
    assert capsys.readouterr().out.count(f"node 1: waits, {why}") == 1


def test_a_failed_job_without_pods_gives_its_own_reason(kubernetes: SimpleNamespace) -> None:
    kubernetes.status = lambda: ended("Failed", "DeadlineExceeded")
    with pytest.raises(MofeError, match="training on 2 nodes failed: DeadlineExceeded"):
        finetune(**IN_MEMORY, num_nodes=2)
    assert kubernetes.deleted


def test_a_pod_that_is_stopped_takes_the_job_with_it(kubernetes: SimpleNamespace) -> None:
    kubernetes.pods = lambda: [("node-0", "Pending")]
    options = [o for name in (*nodes.INPUTS, *nodes.OUTPUTS) for o in (f"--{name}", f"memory://way/{name}")]
    command = [sys.executable, "-m", "mofe", "stage", "finetune", *options, "--num-nodes", "2"]
    environment = {**os.environ, "KUBECONFIG": str(kubernetes.config)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        for _ in range(3000):
            if kubernetes.job and any("GET" in c and "trainjobs" in c for c in kubernetes.calls):
                break
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert kubernetes.deleted == [kubernetes.job["metadata"]["name"]]
    assert "canary" not in output


def test_where_kubeflow_shows_artifacts_is_where_they_are() -> None:
    for scheme, there in (("s3://", "s3://"), ("minio://", "s3://"), ("gs://", "gs://")):
        artifact = dsl.Artifact(name="images", uri=f"{scheme}bucket/way/images")
        assert nodes.object_uri("images", artifact.path) == f"{there}bucket/way/images"
    with pytest.raises(MofeError, match="images is at /data/images, where other nodes cannot read"):
        nodes.object_uri("images", "/data/images")


def test_without_a_cluster_it_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "none"))
    with pytest.raises(MofeError, match="needs a pod of a Kubernetes cluster with Kubeflow Trainer"):
        finetune(**IN_MEMORY, num_nodes=2)
    with pytest.raises(MofeError, match="num_nodes = 0"):
        finetune(**IN_MEMORY, num_nodes=0)
