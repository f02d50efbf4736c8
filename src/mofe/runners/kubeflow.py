"""Kubeflow Pipelines: submits runs and follows them, registers versions of pipelines, and keeps schedules.

It calls API v2beta1 through the kfp client. The client has no method for two calls: the workflow of a run, which is
part of API v1beta1, and the log of a pod.
"""

import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from io import StringIO
from pathlib import Path
from typing import Any

import yaml

from mofe import __version__
from mofe.errors import MofeError, server_message
from mofe.runners.digests import stamp
from mofe.runners.kubeflow_api import Kubeflow, get, pages
from mofe.runners.pipeline_spec import EarlierRun, PipelineSpec, subgraph, with_image, without_cache
from mofe.runners.pod_resources import RESOURCES, with_resources
from mofe.runners.workflow import Failure, cause_in, failures, is_elsewhere, nodes_of, report_ended

EXPERIMENT = "mofe"
"""Experiment of runs and schedules; created if it does not exist."""
FINISHED = {"SUCCEEDED", "SKIPPED", "FAILED", "CANCELED"}
POLL_INTERVAL = 10.0
"""Seconds between two requests for the state of a run."""
MAX_MISSES = 30
"""Number of failed requests in a row after which a run is no longer followed; the run itself continues."""


def submit(kubeflow: Kubeflow, pipeline: Path, parameters: dict[str, Any], *, name: str) -> str:
    """Submit a run and follow it to its end.

    Args:
        kubeflow: installation that runs the pipeline.
        pipeline: compiled YAML with plain version tags, which are replaced by content digests.
        parameters: values of the pipeline's parameters.
        name: name of the run.

    Returns:
        Id of the run.

    Raises:
        MofeError: Kubeflow cannot be reached or refuses, or the run failed; the message names the failed stages.
    """
    return _submit(
        kubeflow, kubeflow.client(), _read_pipeline(pipeline, kubeflow.registry, parameters), parameters,
        run_name=name, experiment_name=EXPERIMENT, namespace=kubeflow.namespace or None,
    )  # fmt: skip


def earlier_run(kubeflow: Kubeflow, run_id: str) -> EarlierRun:
    """Read the pipeline and the parameters of an earlier run on Kubeflow.

    Args:
        kubeflow: installation that has the run.
        run_id: id of the run, as the UI shows it and :func:`submit` returns it.

    Raises:
        MofeError: Kubeflow cannot be reached, or has no such run.
    """
    client = kubeflow.client()
    with kubeflow.access(f"has no run {run_id}"):
        run = client.get_run(run_id)
        found, version = run.pipeline_spec, run.pipeline_version_reference
        if found is None:  # the run is of a registered pipeline
            found = client.get_pipeline_version(version.pipeline_id, version.pipeline_version_id).pipeline_spec
    spec = [found["pipeline_spec"], found["platform_spec"]] if "pipeline_spec" in found else [found]
    config = run.runtime_config
    place = {
        "experiment_id": run.experiment_id,
        "pipeline_root": config.pipeline_root if config else None,
        "service_account": run.service_account,
    }
    return EarlierRun(run_id, run.display_name, spec, (config.parameters if config else None) or {}, place)


def submit_again(kubeflow: Kubeflow, earlier: EarlierRun, stage: str, parameters: dict[str, Any]) -> str:
    """Submit one stage of an earlier run again, with the stages that it depends on, and follow the run to its end.

    It is a new run in the experiment of the earlier one, of the same pipeline without the tasks that the stage does not
    need. Kubeflow takes the stages before it from its cache, where it still has them. The stage itself never comes from
    the cache, and Kubeflow does not store its result there.

    Args:
        kubeflow: installation that has the earlier run. The stage runs its present code from ``registry``; "" takes
            the image of the earlier run.
        earlier: result of :func:`earlier_run`.
        stage: name of the stage; all its tasks run where the pipeline has several.
        parameters: parameters of the new run.

    Returns:
        Id of the run.

    Raises:
        MofeError: the pipeline has no such stage, or one of the reasons of :func:`submit`.
    """
    registry = kubeflow.registry.rstrip("/")
    spec = with_image(earlier.spec, stage, registry) if registry else earlier.spec
    # new resources are written into this stage's pods only, because the cache compares inputs of the other stages
    spec = with_resources(without_cache(subgraph(spec, stage), stage), parameters, stage)
    before = {name: value for name, value in earlier.parameters.items() if name in RESOURCES}
    given = {name: value for name, value in parameters.items() if name not in RESOURCES} | before
    name = f"{earlier.name} {stage}"
    return _submit(kubeflow, kubeflow.client(), spec, given, run_name=name, **earlier.place)


def _submit(kubeflow: Kubeflow, client: Any, pipeline: PipelineSpec, parameters: dict[str, Any], **options: Any) -> str:
    with _file(_text(pipeline)) as file, kubeflow.access("refused the run"), redirect_stdout(StringIO()):
        run_id: str = client.create_run_from_pipeline_package(file, parameters, **options).run_id  # prints links
    kubeflow.log(f"run {run_id}: {kubeflow.host.rstrip('/')}/#/runs/details/{run_id}")
    return _follow(client, run_id, pipeline, kubeflow.log)


def register(kubeflow: Kubeflow, pipelines: Sequence[Path], defaults: Mapping[str, Any] | None = None) -> None:
    """Register a new version of each pipeline, so that the UI shows it, unless Kubeflow has this version already.

    Args:
        kubeflow: installation to register with.
        pipelines: compiled YAML files with plain version tags, which are replaced by content digests.
        defaults: new defaults of parameters; a pipeline ignores those that it does not have.

    Raises:
        MofeError: Kubeflow cannot be reached or refuses.
    """
    client = kubeflow.client()
    for pipeline in pipelines:
        name = "mofe" if pipeline.stem == "mofe" else f"mofe-{pipeline.stem}"
        content = _with_defaults(
            stamp(pipeline.read_text("utf-8"), kubeflow.registry.rstrip("/") or None), defaults or {}
        )
        version = f"{__version__}-{hashlib.sha256(content.encode()).hexdigest()[:12]}"
        with _file(content) as file, redirect_stdout(StringIO()), kubeflow.access(f"refused {name}"):
            is_new = _upload(client, file, name, version, kubeflow.namespace)
        kubeflow.log(f"{name} {version} {'registered' if is_new else 'was already registered'}")


def _upload(client: Any, file: str, name: str, version: str, namespace: str) -> bool:
    """Upload a version of a pipeline if Kubeflow does not have it; return whether it was uploaded."""
    has_name = {"predicates": [{"operation": "EQUALS", "key": "display_name", "stringValue": name}]}
    found = client.list_pipelines(filter=json.dumps(has_name), namespace=namespace or None).pipelines
    if found:
        known = found[0].pipeline_id
    else:
        known = client.upload_pipeline(file, name, namespace=namespace or None).pipeline_id
    listed = client.list_pipeline_versions(known, page_size=100, sort_by="created_at desc")
    if version in {v.display_name for v in listed.pipeline_versions or []}:
        return False
    client.upload_pipeline_version(file, version, pipeline_id=known)
    return True


def schedule(kubeflow: Kubeflow, pipeline: Path, parameters: dict[str, Any], cron: str, *, name: str) -> None:
    """Make Kubeflow run a pipeline at given times, one run at a time. It replaces a schedule of the same name.

    Args:
        kubeflow: installation that runs the pipeline.
        pipeline: compiled YAML with plain version tags, which are replaced by content digests.
        parameters: values of the pipeline's parameters in every run.
        cron: times in six fields: seconds, minutes, hours, day of the month, month, day of the week.
        name: name of the schedule and of its runs.

    Raises:
        MofeError: ``cron`` is not a cron expression, or Kubeflow cannot be reached or refuses.
    """
    if not cron.startswith("@") and len(cron.split()) != 6:
        raise MofeError(
            f"{cron!r} has {len(cron.split())} fields: Kubeflow's six begin with seconds, for example '0 0 3 * * 1'"
        )
    client = kubeflow.client()
    experiment, old = _find_schedules(kubeflow, client, name)
    text = _text(_read_pipeline(pipeline, kubeflow.registry, parameters))
    with _file(text) as file, kubeflow.access("refused the schedule"):
        client.create_recurring_run(
            experiment, name, cron_expression=cron, no_catchup=True, params=parameters, pipeline_package_path=file
        )
        for recurring_run in old:
            _end(client, experiment, recurring_run)
    kubeflow.log(f"{name} runs at {cron}{' and replaces the earlier schedule' if old else ''}")


def unschedule(kubeflow: Kubeflow, name: str) -> None:
    """End a schedule; a run of it that has begun continues.

    Args:
        kubeflow: installation that has the schedule.
        name: name of the schedule; it need not exist.

    Raises:
        MofeError: Kubeflow cannot be reached or refuses.
    """
    client = kubeflow.client()
    experiment, old = _find_schedules(kubeflow, client, name)
    with kubeflow.access("kept the schedule"):
        for recurring_run in old:
            _end(client, experiment, recurring_run)
    kubeflow.log(f"the schedule {name} has ended" if old else f"there is no schedule {name}")


def _find_schedules(kubeflow: Kubeflow, client: Any, name: str) -> tuple[str, list[str]]:
    """Id of the experiment, and ids of the schedules of this name in it."""
    with kubeflow.access("does not list its schedules"):
        with redirect_stdout(StringIO()):  # the client prints a link
            experiment = client.create_experiment(EXPERIMENT, namespace=kubeflow.namespace or None).experiment_id
        listed = [
            r for page in pages(client.list_recurring_runs, experiment_id=experiment) for r in page.recurring_runs or []
        ]
        return experiment, [run.recurring_run_id for run in listed if run.display_name == name]


def _end(client: Any, experiment: str, recurring_run: str) -> None:
    """Delete a schedule. While a run of it continues, only disable it: Kubernetes would delete the run too."""
    listed = (run for page in pages(client.list_runs, experiment_id=experiment) for run in page.runs or [])
    runs = (run for run in listed if run.recurring_run_id == recurring_run)
    if any(run.state not in FINISHED for run in runs):
        client.disable_recurring_run(recurring_run)
    else:
        client.delete_recurring_run(recurring_run)


def _read_pipeline(pipeline: Path, registry: str, parameters: Mapping[str, Any]) -> PipelineSpec:
    """Read a compiled pipeline; put in content digests of the images, and the resources that its pods request."""
    stamped = stamp(pipeline.read_text("utf-8"), registry.rstrip("/") or None)
    return with_resources(list(yaml.safe_load_all(stamped)), parameters)


def _text(pipeline: PipelineSpec) -> str:
    return str(yaml.safe_dump_all(pipeline, sort_keys=False, allow_unicode=True))


@contextmanager
def _file(pipeline: str) -> Iterator[str]:
    """Write a pipeline to a temporary file, which the client takes, and yield its path."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "pipeline.yaml"
        file.write_text(pipeline, "utf-8")
        yield str(file)


def _with_defaults(pipeline: str, defaults: Mapping[str, Any]) -> str:
    if not defaults:
        return pipeline
    spec = list(yaml.safe_load_all(pipeline))
    parameters = spec[0]["root"]["inputDefinitions"]["parameters"]
    for name in defaults.keys() & parameters.keys():
        parameters[name]["defaultValue"] = defaults[name]
    return _text(spec)


def _follow(client: Any, run_id: str, pipeline: PipelineSpec, log: Callable[[str], None]) -> str:
    reported: set[str] = set()
    misses, elsewhere = 0, False
    while True:
        try:
            run = client.get_run(run_id)
            status = _workflow(client, run_id).get("status", {})
            nodes = nodes_of(status)
            misses = 0
        except Exception as error:
            misses += 1
            if misses >= MAX_MISSES:
                raise MofeError(
                    f"run {run_id} cannot be followed any more ({server_message(error)}): "
                    "it may still be running, see the UI"
                ) from error
            time.sleep(POLL_INTERVAL)
            continue
        if is_elsewhere(status) and not elsewhere:
            elsewhere = True
            log("this Kubeflow stores the state of its runs in a database: see the UI for the stages")
        for line in report_ended(nodes, pipeline, reported):
            log(line)
        if run.state in FINISHED:
            break
        time.sleep(POLL_INTERVAL)
    if run.state != "SUCCEEDED":
        raise MofeError(f"run {run_id} ended as {run.state.lower()}: {_reason(client, run, nodes, pipeline)}")
    return run_id


def _reason(client: Any, run: Any, nodes: list[dict[str, Any]], pipeline: PipelineSpec) -> str:
    """Why a run failed: the failed stages with their causes, or Kubeflow's message."""
    why = [f"{failure.stage} ({_cause(client, run.run_id, failure)})" for failure in failures(nodes, pipeline)]
    return "; ".join(why) or (server_message(run.error) if run.error else "see the UI for the cause")


def _workflow(client: Any, run_id: str) -> dict[str, Any]:
    """Read the Argo workflow of a run; it is empty where Kubeflow no longer has this API."""
    try:
        answer = json.loads(get(client, f"/apis/v1beta1/runs/{run_id}"))
    except Exception as error:
        if getattr(error, "status", None) == 404:
            return {}
        raise
    workflow: dict[str, Any] = json.loads(answer.get("pipeline_runtime", {}).get("workflow_manifest") or "{}")
    return workflow


def _cause(client: Any, run_id: str, failure: Failure) -> str:
    """Why a pod failed: from its log, if the pod exists or Argo archives logs, else from Argo's message."""
    for name in (failure.pod, failure.node):
        with suppress(Exception):
            if cause := cause_in(get(client, f"/apis/v1alpha1/runs/{run_id}/nodes/{name}/log")):
                return cause
    return failure.message or "see its log for the cause"
