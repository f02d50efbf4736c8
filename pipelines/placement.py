"""Settings of tasks on a cluster: nodes, accelerators, memory, credentials, retries.

They are part of the compiled YAML. A run on a laptop ignores them.
"""

from typing import Any, NamedTuple

from kfp import dsl, kubernetes

SECRET_KEYS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_ENDPOINT_URL",
    "AWS_REGION",
    "AZURE_STORAGE_ACCOUNT_NAME",
    "AZURE_STORAGE_ACCOUNT_KEY",
    "HF_TOKEN",
    "MLFLOW_TRACKING_URI",
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "MOFE_TRACKING_FOLDER",
)
"""Keys that the Secret may hold, each the name of an environment variable."""

DAY = 24 * 60 * 60


class Pool(NamedTuple):
    """Parameters of a pipeline that choose nodes, resources and credentials."""

    accelerator: Any
    """Resource name, for example nvidia.com/gpu."""
    node_selector: Any
    tolerations: Any
    cpu: Any
    memory: Any
    credentials: Any
    """Name of a Secret."""


def on_cpu(task: dsl.PipelineTask, credentials: Any, *, cpu: str = "1", memory: str = "2Gi") -> dsl.PipelineTask:
    """Place a task that needs no accelerator. It requests ``cpu`` and ``memory``; its limit is twice the memory."""
    task.set_cpu_request(cpu).set_memory_request(memory)
    task.set_memory_limit(f"{2 * int(memory.removesuffix('Gi'))}Gi")
    return _set_common(task, credentials, tries=2, days=1)


def on_accelerator(
    task: dsl.PipelineTask, pool: Pool, count: Any, *, tries: int = 2, days: int = 1
) -> dsl.PipelineTask:
    """Place a task on the nodes of ``pool``.

    Args:
        task: task of extract, finetune, index, score or predict.
        pool: nodes, resources and credentials.
        count: number of accelerators of the pod, as text, because Kubeflow's driver ignores a number; 0 computes on
            CPUs.
        tries: number of retries after a failure, for example after the loss of a node.
        days: time limit of one try in days.
    """
    # kfp 2.17 passes a parameter that only a resource uses into a loop only where the task registers it
    task.register_pipeline_channels([pool.accelerator, count, pool.cpu, pool.memory])
    task.set_accelerator_type(pool.accelerator).set_accelerator_limit(count)
    task.set_cpu_request(pool.cpu).set_memory_request(pool.memory).set_memory_limit(pool.memory)
    kubernetes.add_node_selector_json(task, pool.node_selector)
    kubernetes.add_toleration_json(task, pool.tolerations)
    # loader processes pass images through shared memory, and a pod has 64 MB of it by default
    kubernetes.empty_dir_mount(task, "shared-memory", "/dev/shm", medium="Memory", size_limit="8Gi")
    return _set_common(task, pool.credentials, tries, days)


def _set_common(task: dsl.PipelineTask, credentials: Any, tries: int, days: int) -> dsl.PipelineTask:
    kubernetes.set_timeout(task, days * DAY)
    # Argo counts backoff_max_duration from the start of the first try, and then neither starts nor continues another:
    # it must be long enough for all tries
    task.set_retry(
        tries, backoff_duration="60s", backoff_factor=2.0, backoff_max_duration=f"{(tries + 1) * (days + 1) * DAY}s"
    )
    kubernetes.use_secret_as_env(task, credentials, {key: key for key in SECRET_KEYS}, optional=True)
    kubernetes.use_field_path_as_env(task, "KFP_RUN_ID", "metadata.labels['pipeline/runid']")
    return task
