"""Training on several nodes of a cluster: a TrainJob of Kubeflow Trainer runs the stage under torchrun on each node.

The pod of finetune only watches. It starts pods like itself (image, Secrets, placement), prints the log of the first
node, and then finishes, or fails with the nodes' reason. The pod deletes the TrainJob at the end. It also owns the
TrainJob, so Kubernetes deletes the job together with the pod. After a kill, pod and TrainJob can remain for a while. A
model's job always has the same name, so the next try finds the remaining job and first waits until it is deleted.

The nodes share no disk, so their inputs and outputs must be in an object store. This pod sees Kubeflow's artifact store
under ``/s3/…``, ``/minio/…`` or ``/gcs/…``.
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
"""Name of Kubeflow Trainer's runtime that runs torchrun."""
MOUNTS = {"/s3/": "s3://", "/minio/": "s3://", "/gcs/": "gs://"}
"""Folders under which a pod sees Kubeflow's artifacts, and the schemes of their URIs; MinIO uses S3's protocol."""
INPUTS, OUTPUTS = ("images", "features", "partition"), ("model", "history")
COPIED_VARIABLES = re.compile(r"(MLFLOW|MOFE)_|KFP_RUN_ID$")
"""Environment variables whose values the nodes get. Variables from Secrets and ConfigMaps are passed by reference."""
NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
POLL_INTERVAL = 10.0
"""Seconds between two requests for the job's state."""
MAX_MISSES = 30
"""Number of these requests in a row that may fail."""


def train_on_nodes(arguments: Mapping[str, Any], num_nodes: int, resources: Mapping[str, Any]) -> None:
    """Run the stage finetune on several nodes, and wait until it is done.

    Args:
        arguments: arguments of the stage.
        num_nodes: number of pods that train together.
        resources: requests of each pod that differ from those of this pod, for example ``{"nvidia.com/gpu": 8}``.

    Raises:
        MofeError: this is not a pod of a cluster with Kubeflow Trainer, the pod may not create the job, its data is not
            in an object store, or the training failed.
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
    """The URI at which every node finds the content of ``place``.

    Raises:
        MofeError: ``place`` is on this pod's disk.
    """
    for mount, scheme in MOUNTS.items():
        if place.startswith(mount):
            return scheme + place.removeprefix(mount)
    if locations.is_local(locations.resolve(place)):
        raise MofeError(
            f"{name} is at {place}, where other nodes cannot read or write: use an object store (s3://…, gs://…), or "
            "num_nodes=1"
        )
    return place


def train_job(
    pod: Mapping[str, Any], arguments: Mapping[str, Any], num_nodes: int, resources: Mapping[str, Any]
) -> dict[str, Any]:
    """The Kubernetes object of a TrainJob whose nodes are copies of a pod.

    Args:
        pod: the pod as a Kubernetes object; the nodes copy its container ``main``.
        arguments: arguments of the stage.
        num_nodes: number of pods.
        resources: requests that override those of the container.
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
    """The image, command and resources of every node."""
    has_gpus = any("gpu" in name.lower() for name in resources["limits"])  # Trainer recognises GPUs by this word
    return {
        "image": main["image"],
        "command": ["torchrun", "-m", "mofe", "stage", "finetune"],
        "args": _options(arguments),
        "env": list(_variables(main.get("env", []))),
        "numNodes": num_nodes,
        # the runtime's default is one process per GPU; without GPUs it would be one per CPU
        **({} if has_gpus else {"numProcPerNode": 1}),
        "resourcesPerNode": resources,
    }


def _runtime_patch(pod: Mapping[str, Any], labels: Mapping[str, str]) -> dict[str, Any]:
    """The settings that a node copies from this pod: placement, service account, security context, shared memory."""
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
    """Convert the stage's arguments to options of ``mofe stage finetune``."""
    options: list[str] = []
    for name, value in arguments.items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            options.append(f"--{option}" if value else f"--no-{option}")
        else:
            options += [f"--{option}", str(value)]
    return options


def _variables(env: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The environment variables of the nodes: references to Secrets and ConfigMaps, and :data:`COPIED_VARIABLES`."""
    for variable in env:
        source = variable.get("valueFrom", {})
        if "secretKeyRef" in source or "configMapKeyRef" in source:
            yield variable
        elif COPIED_VARIABLES.match(variable["name"]) and variable["name"] in os.environ:
            yield {"name": variable["name"], "value": os.environ[variable["name"]]}


def _resources(own: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    requests, limits = dict(own.get("requests", {})), dict(own.get("limits", {}))
    for name, value in overrides.items():
        amount = f"{value:g}" if isinstance(value, float) else str(value)
        requests[name] = amount
        if name != "cpu" or name in limits:
            limits[name] = amount
    return {"requests": _without_zeros(requests), "limits": _without_zeros(limits)}


def _without_zeros(amounts: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(amount) for name, amount in amounts.items() if str(amount) != "0"}


class Cluster:
    """The requests to Kubernetes: read this pod, run one TrainJob, read its pods' logs."""

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
                "num_nodes > 1 needs a pod of a Kubernetes cluster with Kubeflow Trainer: run it there, or num_nodes=1"
            ) from error
        self.jobs = client.CustomObjectsApi()
        self.pods = client.CoreV1Api()

    def own_pod(self) -> dict[str, Any]:
        """Read this pod as a Kubernetes object."""
        name = os.environ.get("KFP_POD_NAME") or os.environ.get("HOSTNAME", "")
        try:
            answer = self.pods.read_namespaced_pod(name, self.namespace, _preload_content=False)
        except Exception as error:  # the API and the connection raise different types
            raise MofeError(self._explain_refusal("read its own pod", error)) from error
        pod: dict[str, Any] = json.loads(answer.data)
        return pod

    @contextmanager
    def running(self, job: dict[str, Any]) -> Iterator[str]:
        """Create the job and yield its name; at the end of the block, also after an error, delete it with its pods."""
        before = signal.signal(signal.SIGTERM, _stop)
        try:
            name = job["metadata"]["name"]
            if not self._create(job):
                self._replace(job)
            print(f"TrainJob {name}: {job['spec']['trainer']['numNodes']} nodes", flush=True)
            try:
                yield name
            finally:
                self._delete(name)
        finally:
            signal.signal(signal.SIGTERM, before)

    def wait_for(self, name: str, num_nodes: int) -> None:
        """Wait until the job is complete; print its first node's log, and why other nodes wait.

        Raises:
            MofeError: the job failed or was deleted, or Kubernetes cannot be reached any more.
        """
        misses = 0
        nodes = NodeWatch(self.pods, self.namespace, name)
        while True:
            try:
                job = self.jobs.get_namespaced_custom_object(GROUP, VERSION, self.namespace, PLURAL, name)
                nodes.report()
                misses = 0
            except Exception as error:  # the API and the connection raise different types
                misses += 1
                if getattr(error, "status", None) == 404:
                    raise MofeError(f"the TrainJob {name} was deleted while it ran") from error
                if misses >= MAX_MISSES:
                    raise MofeError(
                        f"the state of the TrainJob {name} cannot be read: {server_message(error)}; try again later"
                    ) from error
                time.sleep(POLL_INTERVAL)
                continue
            conditions = {c["type"]: c for c in job.get("status", {}).get("conditions", []) if c["status"] == "True"}
            if "Failed" in conditions or "Complete" in conditions:
                nodes.finish_log(POLL_INTERVAL)
                if "Failed" in conditions:
                    raise MofeError(
                        f"training on {num_nodes} nodes failed: {nodes.reason() or conditions['Failed']['message']}"
                    )
                return
            time.sleep(POLL_INTERVAL)

    def _create(self, job: dict[str, Any]) -> bool:
        """Create the job; False if there already is a job of that name."""
        try:
            self.jobs.create_namespaced_custom_object(GROUP, VERSION, self.namespace, PLURAL, job)
        except Exception as error:
            if getattr(error, "status", None) == 409:
                return False
            raise MofeError(self._explain_refusal("create a TrainJob", error)) from error
        return True

    def _replace(self, job: dict[str, Any]) -> None:
        """Delete the job that an earlier try left, wait until its pods are gone, and create the new one."""
        name = job["metadata"]["name"]
        print(f"an earlier try left the TrainJob {name}: deleting it", flush=True)
        self._delete(name)
        for _ in range(MAX_MISSES):
            left = True
            with suppress(Exception):  # the API and the connection raise different types
                left = bool(pods_of(self.pods, self.namespace, name))
            if not left and self._create(job):
                return
            time.sleep(POLL_INTERVAL)
        raise MofeError(f"the TrainJob {name} of an earlier try cannot be deleted: delete it, and try again")

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
                f"this pod's service account may not {what} in the namespace {self.namespace}: grant it this right "
                "(trainer.enabled=true in the chart), or num_nodes=1"
            )
        if status == 404 and "TrainJob" in what:
            return "this cluster has no TrainJob: install Kubeflow Trainer 2.2 or newer, or num_nodes=1"
        return f"Kubernetes did not let this pod {what}: {server_message(error)}"


def _stop(signum: int, frame: FrameType | None) -> None:
    sys.exit(128 + signum)
