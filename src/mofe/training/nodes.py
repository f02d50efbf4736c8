"""Training on several nodes of a cluster: the same stage under torchrun on each, as a TrainJob of Kubeflow Trainer.

The pod of finetune becomes the one that watches. It starts pods like itself (image, Secrets, where they may run),
prints what the first of them prints, and ends as they end: finished, or failed with their reason. It deletes the
TrainJob at the end, and the TrainJob belongs to the pod, with which Kubernetes deletes it. A pod that was killed stays
in Kubernetes' books for a while, and so may its TrainJob: the job of one model always has one name, so the next try
finds what the last one left, and lets it end first.

The nodes share no disk, so what they read and write is in an object store: where Kubeflow keeps the artifacts that it
shows this pod under ``/s3/…``, ``/minio/…`` or ``/gcs/…``.
"""

import hashlib
import json
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from mofe.errors import MofeError, server_message
from mofe.storage import locations, writing
from mofe.training.node_watch import NodeWatch, pods_of

GROUP, VERSION, PLURAL = "trainer.kubeflow.org", "v1alpha1", "trainjobs"
RUNTIME = "torch-distributed"
"""What Kubeflow Trainer runs torchrun with."""
MOUNTS = {"/s3/": "s3://", "/minio/": "s3://", "/gcs/": "gs://"}
"""Where Kubeflow shows artifacts to a pod, and where they are; MinIO speaks S3."""
INPUTS, OUTPUTS = ("images", "features", "partition"), ("model", "history")
HANDED_ON = re.compile(r"(MLFLOW|MOFE)_|KFP_RUN_ID$")
"""Variables that say what run this is. Those from Secrets and ConfigMaps are handed on by reference."""
NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
POLL_INTERVAL = 10.0
"""Seconds between two looks at the job."""
MAX_MISSES = 30
"""Looks in a row that may fail."""


def train_on_nodes(arguments: Mapping[str, Any], num_nodes: int, resources: Mapping[str, Any]) -> None:
    """Run the stage finetune on several nodes, and be there when it is done.

    Args:
        arguments: of the stage.
        num_nodes: how many pods train together.
        resources: what each requests instead of what this pod does, for example ``{"nvidia.com/gpu": 8}``.

    Raises:
        MofeError: this is no pod of a cluster with Kubeflow Trainer, it may not start the job, its data is not in an
            object store, or the training failed.
    """
    places = {name: object_uri(name, arguments[name]) for name in (*INPUTS, *OUTPUTS)}
    if arguments["checkpoints"]:
        places["checkpoints"] = object_uri("checkpoints", arguments["checkpoints"])
    cluster = Cluster()
    job = train_job(cluster.own_pod(), {**arguments, **places}, num_nodes, resources)
    with cluster.running(job) as name:
        cluster.wait_for(name, num_nodes)
    for name in OUTPUTS:
        if places[name] != arguments[name]:
            with locations.local_copy(places[name]) as copy, writing.staged(arguments[name]) as folder:
                shutil.copytree(copy, folder.path, dirs_exist_ok=True)


def object_uri(name: str, place: str) -> str:
    """Where every node finds what this pod sees at ``place``."""
    for mount, scheme in MOUNTS.items():
        if place.startswith(mount):
            return scheme + place.removeprefix(mount)
    if locations.is_local(locations.resolve(place)):
        raise MofeError(
            f"{name} is at {place}, where other nodes cannot read or write: num_nodes > 1 needs an object store "
            "(s3://…, gs://…) for it, or num_nodes=1"
        )
    return place


def train_job(
    pod: Mapping[str, Any], arguments: Mapping[str, Any], num_nodes: int, resources: Mapping[str, Any]
) -> dict[str, Any]:
    """The TrainJob whose nodes are like a pod, as Kubernetes takes it.

    Args:
        pod: as Kubernetes gives it; its container ``main`` is the pattern.
        arguments: of the stage.
        num_nodes: pods.
        resources: put over those of the pattern.
    """
    meta, main = pod["metadata"], _main_container(pod)
    labels = {k: v for k, v in meta.get("labels", {}).items() if k == "pipeline/runid"}
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "TrainJob",
        "metadata": {
            "name": f"mofe-finetune-{hashlib.sha256(str(arguments['model']).encode()).hexdigest()[:8]}",
            "labels": labels,
            "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": meta["name"], "uid": meta["uid"]}],
        },
        "spec": {
            "runtimeRef": {"name": RUNTIME},
            "trainer": _trainer(main, arguments, num_nodes, _resources(main.get("resources", {}), resources)),
            "runtimePatches": [
                {"manager": "mofe.github.io/finetune", "trainingRuntimeSpec": _runtime_patch(pod, labels)}
            ],
        },
    }


def _main_container(pod: Mapping[str, Any]) -> dict[str, Any]:
    containers: list[dict[str, Any]] = pod["spec"]["containers"]
    return next((c for c in containers if c["name"] == "main"), containers[0])


def _trainer(
    main: Mapping[str, Any], arguments: Mapping[str, Any], num_nodes: int, resources: Mapping[str, Any]
) -> dict[str, Any]:
    """What every node runs, and what it requests."""
    has_gpus = any("gpu" in name.lower() for name in resources["limits"])  # as Trainer tells them
    return {
        "image": main["image"],
        "command": ["torchrun", "-m", "mofe", "stage", "finetune"],
        "args": _options(arguments),
        "env": list(_variables(main.get("env", []))),
        "numNodes": num_nodes,
        # a process for each GPU, which is the runtime's default, but not one for each CPU where it sees none
        **({} if has_gpus else {"numProcPerNode": 1}),
        "resourcesPerNode": resources,
    }


def _runtime_patch(pod: Mapping[str, Any], labels: Mapping[str, str]) -> dict[str, Any]:
    """What makes the nodes pods like this one: where they may run, as whom, with what shared memory."""
    spec = pod["spec"]
    volumes = [v for v in spec.get("volumes", []) if v.get("emptyDir", {}).get("medium") == "Memory"]
    shared = {volume["name"] for volume in volumes}
    mounts = [m for m in _main_container(pod).get("volumeMounts", []) if m["name"] in shared]
    like = {
        **{
            key: spec[key]
            for key in ("serviceAccountName", "imagePullSecrets", "nodeSelector", "tolerations", "securityContext")
            if spec.get(key)
        },
        **({"volumes": volumes, "containers": [{"name": "node", "volumeMounts": mounts}]} if mounts else {}),
    }
    template = {"metadata": {"labels": {**labels, "sidecar.istio.io/inject": "false"}}, "spec": like}
    return {"template": {"spec": {"replicatedJobs": [{"name": "node", "template": {"spec": {"template": template}}}]}}}


def _options(arguments: Mapping[str, Any]) -> list[str]:
    """The stage's arguments as ``mofe stage finetune`` takes them."""
    options: list[str] = []
    for name, value in arguments.items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            options.append(f"--{option}" if value else f"--no-{option}")
        else:
            options += [f"--{option}", str(value)]
    return options


def _variables(env: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """What the nodes get of a pod's variables: Secrets by reference, and what run they belong to."""
    for variable in env:
        source = variable.get("valueFrom", {})
        if "secretKeyRef" in source or "configMapKeyRef" in source:
            yield variable
        elif HANDED_ON.match(variable["name"]) and variable["name"] in os.environ:
            yield {"name": variable["name"], "value": os.environ[variable["name"]]}


def _resources(own: Mapping[str, Any], instead: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    requests, limits = dict(own.get("requests", {})), dict(own.get("limits", {}))
    for name, value in instead.items():
        amount = f"{value:g}" if isinstance(value, float) else str(value)
        requests[name] = amount
        if name != "cpu" or name in limits:
            limits[name] = amount
    return {"requests": _some(requests), "limits": _some(limits)}


def _some(amounts: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(amount) for name, amount in amounts.items() if str(amount) != "0"}


class Cluster:
    """What is asked of Kubernetes: this pod, one TrainJob, what its pods print."""

    def __init__(self) -> None:
        from kubernetes import client, config

        try:
            if NAMESPACE.is_file():
                config.load_incluster_config()
                self.namespace = NAMESPACE.read_text("utf-8").strip()
            else:
                config.load_kube_config()
                self.namespace = config.list_kube_config_contexts()[1]["context"].get("namespace", "default")
        except config.ConfigException as error:
            raise MofeError(
                "num_nodes > 1 needs a pod of a Kubernetes cluster with Kubeflow Trainer, and this is none: num_nodes=1"
            ) from error
        self.jobs = client.CustomObjectsApi()
        self.pods = client.CoreV1Api()

    def own_pod(self) -> dict[str, Any]:
        """This pod, as Kubernetes writes it."""
        name = os.environ.get("KFP_POD_NAME") or os.environ.get("HOSTNAME", "")
        try:
            answer = self.pods.read_namespaced_pod(name, self.namespace, _preload_content=False)
        except Exception as error:  # of the API, of the connection
            raise MofeError(self._explain_refusal("read its own pod", error)) from error
        pod: dict[str, Any] = json.loads(answer.data)
        return pod

    @contextmanager
    def running(self, job: dict[str, Any]) -> Iterator[str]:
        """The job's name; when the block ends, by whatever, the job is deleted with its pods."""
        before = signal.signal(signal.SIGTERM, _stop)
        try:
            name = job["metadata"]["name"]
            if not self._create(job):
                self._create_after_the_last(job)
            print(f"TrainJob {name}: {job['spec']['trainer']['numNodes']} nodes", flush=True)
            try:
                yield name
            finally:
                self._delete(name)
        finally:
            signal.signal(signal.SIGTERM, before)

    def wait_for(self, name: str, num_nodes: int) -> None:
        """Return when the job is complete; print what its first node prints, and what keeps others.

        Raises:
            MofeError: it failed, was deleted, or cannot be seen any more.
        """
        misses = 0
        nodes = NodeWatch(self.pods, self.namespace, name)
        while True:
            try:
                job = self.jobs.get_namespaced_custom_object(GROUP, VERSION, self.namespace, PLURAL, name)
                nodes.look()
                misses = 0
            except Exception as error:  # of the API, of the connection
                misses += 1
                if getattr(error, "status", None) == 404:
                    raise MofeError(f"the TrainJob {name} was deleted while it ran") from error
                if misses >= MAX_MISSES:
                    raise MofeError(f"lost sight of the TrainJob {name}: {server_message(error)}") from error
                time.sleep(POLL_INTERVAL)
                continue
            conditions = {c["type"]: c for c in job.get("status", {}).get("conditions", []) if c["status"] == "True"}
            if "Failed" in conditions or "Complete" in conditions:
                nodes.hear_out(POLL_INTERVAL)
                if "Failed" in conditions:
                    raise MofeError(
                        f"training on {num_nodes} nodes failed: {nodes.reason() or conditions['Failed']['message']}"
                    )
                return
            time.sleep(POLL_INTERVAL)

    def _create(self, job: dict[str, Any]) -> bool:
        """Whether there was no job of that name yet."""
        try:
            self.jobs.create_namespaced_custom_object(GROUP, VERSION, self.namespace, PLURAL, job)
        except Exception as error:
            if getattr(error, "status", None) == 409:
                return False
            raise MofeError(self._explain_refusal("create a TrainJob", error)) from error
        return True

    def _create_after_the_last(self, job: dict[str, Any]) -> None:
        name = job["metadata"]["name"]
        print(f"an earlier try left the TrainJob {name}: waiting for its end", flush=True)
        self._delete(name)
        for _ in range(MAX_MISSES):
            left = True
            with suppress(Exception):  # of the API, of the connection
                left = bool(pods_of(self.pods, self.namespace, name))
            if not left and self._create(job):
                return
            time.sleep(POLL_INTERVAL)
        raise MofeError(f"the TrainJob {name} of an earlier try does not end: delete it, and try again")

    def _delete(self, name: str) -> None:
        try:
            self.jobs.delete_namespaced_custom_object(
                GROUP, VERSION, self.namespace, PLURAL, name, propagation_policy="Background"
            )
        except Exception as error:
            if getattr(error, "status", None) != 404:
                print(f"the TrainJob {name} could not be deleted: {server_message(error)}", flush=True)

    def _explain_refusal(self, what: str, error: Any) -> str:
        status = getattr(error, "status", None)
        if status == 403:
            return (
                f"this pod's service account may not {what} in the namespace {self.namespace}: give it that right (the "
                "chart does with trainer.enabled=true), or num_nodes=1"
            )
        if status == 404 and "TrainJob" in what:
            return "this cluster has no TrainJob: install Kubeflow Trainer 2.2 or newer, or num_nodes=1"
        return f"Kubernetes did not let this pod {what}: {server_message(error)}"


def _stop(signum: int, frame: FrameType | None) -> None:
    sys.exit(128 + signum)
