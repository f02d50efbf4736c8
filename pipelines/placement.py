"""Where tasks run on a cluster, and with what: nodes, accelerators, memory, credentials, another try.

Everything here is in the compiled YAML and means nothing to a run on a laptop.
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
"""What the Secret may hold; the names of its keys are those of the variables."""

DAY = 24 * 60 * 60


class Pool(NamedTuple):
    """The pipeline's parameters that choose nodes and credentials."""

    accelerator: Any
    """Resource name, for example nvidia.com/gpu."""
    node_selector: Any
    tolerations: Any
    cpu: Any
    memory: Any
    credentials: Any
    """Name of a Secret."""


def on_cpu(task: dsl.PipelineTask, credentials: Any, *, cpu: str = "1", memory: str = "2Gi") -> dsl.PipelineTask:
    """A task that needs no accelerator: ``cpu`` and ``memory`` are requested, twice as much memory is the limit."""
    task.set_cpu_request(cpu).set_memory_request(memory)
    task.set_memory_limit(f"{2 * int(memory.removesuffix('Gi'))}Gi")
    return _everywhere(task, credentials, tries=2, days=1)


def on_accelerator(
    task: dsl.PipelineTask, pool: Pool, count: Any, *, tries: int = 2, days: int = 1
) -> dsl.PipelineTask:
    """A task in the pool of accelerators.

    Args:
        task: extract, finetune, index or score.
        pool: which nodes.
        count: accelerators of the pod, as text, since Kubeflow's driver takes a number for none; 0 computes on CPUs.
        tries: after a failure, for example because its node was taken away.
        days: after which a try has failed.
    """
    # kfp 2.17 does not hand a parameter that only a resource depends on into a loop, unless it is told of it
    task.register_pipeline_channels([pool.accelerator, count, pool.cpu, pool.memory])
    task.set_accelerator_type(pool.accelerator).set_accelerator_limit(count)
    task.set_cpu_request(pool.cpu).set_memory_request(pool.memory).set_memory_limit(pool.memory)
    kubernetes.add_node_selector_json(task, pool.node_selector)
    kubernetes.add_toleration_json(task, pool.tolerations)
    # loader processes hand images over through shared memory, of which a pod has 64 MB by default
    kubernetes.empty_dir_mount(task, "shared-memory", "/dev/shm", medium="Memory", size_limit="8Gi")
    return _everywhere(task, pool.credentials, tries, days)


def _everywhere(task: dsl.PipelineTask, credentials: Any, tries: int, days: int) -> dsl.PipelineTask:
    kubernetes.set_timeout(task, days * DAY)
    # no cap on a pause but the time, from the start of the first try, after which Argo neither begins nor goes on with
    # another: so it must hold all of them
    task.set_retry(
        tries, backoff_duration="60s", backoff_factor=2.0, backoff_max_duration=f"{(tries + 1) * (days + 1) * DAY}s"
    )
    kubernetes.use_secret_as_env(task, credentials, {key: key for key in SECRET_KEYS}, optional=True)
    kubernetes.use_field_path_as_env(task, "KFP_RUN_ID", "metadata.labels['pipeline/runid']")
    return task
