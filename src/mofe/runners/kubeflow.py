"""Hands compiled pipelines to Kubeflow Pipelines: submits a run and follows it, registers a version, keeps a schedule.

Calls of API v2beta1 through the kfp client, and two that it has no method for: the workflow of a run, from v1beta1, and
the log of a pod. Access is the client's own business: ``KFP_TOKEN`` in the environment, a token of the pod that this
runs in, or the current Kubernetes context.
"""

import hashlib
import json
import logging
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from io import StringIO
from pathlib import Path
from typing import Any

import yaml

from mofe import __version__
from mofe.errors import MofeError, server_message
from mofe.runners.digests import stamp
from mofe.runners.pipeline_spec import EarlierRun, PipelineSpec, subgraph, with_image, without_cache
from mofe.runners.pod_resources import RESOURCES, with_resources
from mofe.runners.workflow import Failure, cause_in, failures, is_elsewhere, nodes_of, report_ended

EXPERIMENT = "mofe"
"""In which runs and schedules appear; made if it is not there."""
FINISHED = {"SUCCEEDED", "SKIPPED", "FAILED", "CANCELED"}
POLL_INTERVAL = 10.0
"""Seconds between two looks at a run."""
MAX_MISSES = 30
"""Looks in a row that may fail before we give up following; the run itself goes on."""


def submit(
    pipeline: Path,
    parameters: dict[str, Any],
    *,
    host: str,
    name: str,
    namespace: str = "",
    registry: str = "",
    log: Callable[[str], None] = print,
) -> str:
    """Submit a run and follow it to its end.

    Args:
        pipeline: the YAML, with plain version tags; the content digests are put in.
        parameters: values of its parameters.
        host: address of Kubeflow Pipelines; "" takes the one of the cluster that this runs in or is configured for.
        name: of the run.
        namespace: of the user, where Kubeflow has several.
        registry: where the images are; "" leaves that of the YAML.
        log: takes a line for the person who waits.

    Returns:
        The run's id.

    Raises:
        MofeError: Kubeflow cannot be reached or refuses, or the run did not succeed; the stages that failed are named.
    """
    return _submit(
        _client(host), _asking(pipeline, registry, parameters), parameters, host, log,
        run_name=name, experiment_name=EXPERIMENT, namespace=namespace or None,
    )  # fmt: skip


def earlier_run(run_id: str, *, host: str, namespace: str = "") -> EarlierRun:
    """What an earlier run on Kubeflow was asked; its pipeline is its own, or the version of a registered one.

    Args:
        run_id: as the UI and :func:`submit` show it.
        host: as for :func:`submit`.
        namespace: as for :func:`submit`.

    Raises:
        MofeError: Kubeflow cannot be reached, or knows no such run.
    """
    client = _client(host)
    with _access(host, f"has no run {run_id}"):
        run = client.get_run(run_id)
        found, version = run.pipeline_spec, run.pipeline_version_reference
        if found is None:
            found = client.get_pipeline_version(version.pipeline_id, version.pipeline_version_id).pipeline_spec
    spec = [found["pipeline_spec"], found["platform_spec"]] if "pipeline_spec" in found else [found]
    config = run.runtime_config
    place = {
        "experiment_id": run.experiment_id,
        "pipeline_root": config.pipeline_root if config else None,
        "service_account": run.service_account,
    }
    return EarlierRun(run_id, run.display_name, spec, (config.parameters if config else None) or {}, place)


def submit_again(
    earlier: EarlierRun,
    stage: str,
    parameters: dict[str, Any],
    *,
    host: str,
    namespace: str = "",
    registry: str = "",
    log: Callable[[str], None] = print,
) -> str:
    """Submit a run of one stage of an earlier run, and of what comes before it; follow it to its end.

    It is a new run in the experiment of the earlier one, of the same pipeline without the tasks that the stage does not
    need. Those before the stage are Kubeflow's to take from its cache, where it still has them; the stage itself takes
    nothing from the cache, and Kubeflow puts nothing there for a task that may not use it.

    Args:
        earlier: from :func:`earlier_run`.
        stage: its name; where a pipeline runs it several times, all of them.
        parameters: of the earlier run, or others.
        host: as for :func:`submit`.
        namespace: as for :func:`submit`.
        registry: where the image with the stage's present code is; "" takes the very image that ran then.
        log: as for :func:`submit`.

    Raises:
        MofeError: there is no such stage, or as for :func:`submit`.
    """
    spec = with_image(earlier.spec, stage, registry.rstrip("/")) if registry else earlier.spec
    # what its pods ask for is the stage's own: where it is an input of the others, the cache compares it
    spec = with_resources(without_cache(subgraph(spec, stage), stage), parameters, stage)
    before = {name: value for name, value in earlier.parameters.items() if name in RESOURCES}
    given = {name: value for name, value in parameters.items() if name not in RESOURCES} | before
    name = f"{earlier.name} {stage}"
    return _submit(_client(host), spec, given, host, log, run_name=name, **earlier.place)


def _submit(
    client: Any, pipeline: PipelineSpec, parameters: dict[str, Any], host: str, log: Callable[[str], None], **more: Any
) -> str:
    with _file(_text(pipeline)) as file, _access(host, "refused the run"), redirect_stdout(StringIO()):
        run_id = client.create_run_from_pipeline_package(file, parameters, **more).run_id  # prints links of its own
    log(f"run {run_id}: {host.rstrip('/')}/#/runs/details/{run_id}")
    return _follow(client, run_id, pipeline, log)


def register(
    pipelines: Sequence[Path],
    defaults: Mapping[str, Any] | None = None,
    *,
    host: str,
    namespace: str = "",
    registry: str = "",
    log: Callable[[str], None] = print,
) -> None:
    """Make pipelines known in the UI, each as a new version, unless just this version is there already.

    Args:
        pipelines: YAML files, with plain version tags; the content digests are put in.
        defaults: of parameters, in place of the pipelines' own, where they have them.
        host: as for :func:`submit`.
        namespace: as for :func:`submit`.
        registry: as for :func:`submit`.
        log: takes a line for the person who waits.

    Raises:
        MofeError: Kubeflow cannot be reached or refuses.
    """
    client = _client(host)
    for pipeline in pipelines:
        name = "mofe" if pipeline.stem == "mofe" else f"mofe-{pipeline.stem}"
        content = _with_defaults(stamp(pipeline.read_text("utf-8"), registry.rstrip("/") or None), defaults or {})
        version = f"{__version__}-{hashlib.sha256(content.encode()).hexdigest()[:12]}"
        with _file(content) as file, redirect_stdout(StringIO()), _access(host, f"refused {name}"):
            is_new = _upload(client, file, name, version, namespace)
        log(f"{name} {version} {'registered' if is_new else 'was there already'}")


def _upload(client: Any, file: str, name: str, version: str, namespace: str) -> bool:
    """Make a version of a pipeline known; whether it was not there already."""
    named = {"predicates": [{"operation": "EQUALS", "key": "display_name", "stringValue": name}]}
    found = client.list_pipelines(filter=json.dumps(named), namespace=namespace or None).pipelines
    if found:
        known = found[0].pipeline_id
    else:
        known = client.upload_pipeline(file, name, namespace=namespace or None).pipeline_id
    listed = client.list_pipeline_versions(known, page_size=100, sort_by="created_at desc")
    if version in {v.display_name for v in listed.pipeline_versions or []}:
        return False
    client.upload_pipeline_version(file, version, pipeline_id=known)
    return True


def schedule(
    pipeline: Path,
    parameters: dict[str, Any],
    cron: str,
    *,
    name: str,
    host: str,
    namespace: str = "",
    registry: str = "",
    log: Callable[[str], None] = print,
) -> None:
    """Let Kubeflow run a pipeline again and again, one run at a time; in place of a schedule of the same name.

    Args:
        pipeline: as for :func:`submit`.
        parameters: of every run.
        cron: when: seconds, minutes, hours, day of the month, month, day of the week.
        name: of the schedule, and of its runs.
        host: as for :func:`submit`.
        namespace: as for :func:`submit`.
        registry: as for :func:`submit`.
        log: as for :func:`submit`.

    Raises:
        MofeError: the times are no cron expression; Kubeflow cannot be reached or refuses.
    """
    if not cron.startswith("@") and len(cron.split()) != 6:
        raise MofeError(
            f"{cron!r} has {len(cron.split())} fields: Kubeflow's six begin with seconds, for example '0 0 3 * * 1'"
        )
    client = _client(host)
    place, old = _find_schedules(client, name, host, namespace)
    with _file(_text(_asking(pipeline, registry, parameters))) as file, _access(host, "refused the schedule"):
        client.create_recurring_run(
            place, name, cron_expression=cron, no_catchup=True, params=parameters, pipeline_package_path=file
        )
        for recurring_run in old:
            _end(client, place, recurring_run)
    log(f"{name} runs at {cron}{', in place of the schedule before' if old else ''}")


def unschedule(name: str, *, host: str, namespace: str = "", log: Callable[[str], None] = print) -> None:
    """End a schedule; a run of it that has begun goes on.

    Args:
        name: of the schedule; it is no error if there is none.
        host: as for :func:`submit`.
        namespace: as for :func:`submit`.
        log: as for :func:`submit`.

    Raises:
        MofeError: Kubeflow cannot be reached or refuses.
    """
    client = _client(host)
    place, old = _find_schedules(client, name, host, namespace)
    with _access(host, "kept the schedule"):
        for recurring_run in old:
            _end(client, place, recurring_run)
    log(f"{name} runs no more" if old else f"there is no schedule {name}")


def _find_schedules(client: Any, name: str, host: str, namespace: str) -> tuple[str, list[str]]:
    """The experiment, and the schedules of this name in it: their ids."""
    with _access(host, "lists no schedules"):
        with redirect_stdout(StringIO()):  # the client prints a link
            place = client.create_experiment(EXPERIMENT, namespace=namespace or None).experiment_id
        pages = _pages(client.list_recurring_runs, experiment_id=place)
        listed = [run for page in pages for run in page.recurring_runs or []]
        return place, [run.recurring_run_id for run in listed if run.display_name == name]


def _end(client: Any, experiment_id: str, recurring_run: str) -> None:
    """End a schedule without its runs: Kubernetes deletes them with it, so while there is one it is only disabled."""
    pages = _pages(client.list_runs, experiment_id=experiment_id)
    runs = (run for listed in pages for run in listed.runs or [] if run.recurring_run_id == recurring_run)
    if any(run.state not in FINISHED for run in runs):
        client.disable_recurring_run(recurring_run)
    else:
        client.delete_recurring_run(recurring_run)


def _pages(listing: Callable[..., Any], **of: Any) -> Iterator[Any]:
    page = ""
    while True:
        listed = listing(page_token=page, page_size=100, **of)
        yield listed
        page = listed.next_page_token
        if not page:
            return


def _asking(pipeline: Path, registry: str, parameters: Mapping[str, Any]) -> PipelineSpec:
    """A pipeline with the images by content, and with what the pods of a run ask for."""
    stamped = stamp(pipeline.read_text("utf-8"), registry.rstrip("/") or None)
    return with_resources(list(yaml.safe_load_all(stamped)), parameters)


def _text(pipeline: PipelineSpec) -> str:
    return str(yaml.safe_dump_all(pipeline, sort_keys=False, allow_unicode=True))


@contextmanager
def _file(pipeline: str) -> Iterator[str]:
    """A pipeline as the client takes it."""
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
    told: set[str] = set()
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
                    f"lost sight of run {run_id} ({server_message(error)}); it may still be running: look in the UI"
                ) from error
            time.sleep(POLL_INTERVAL)
            continue
        if is_elsewhere(status) and not elsewhere:
            elsewhere = True
            log("this Kubeflow keeps the state of its runs in a database: the UI shows the stages")
        for line in report_ended(nodes, pipeline, told):
            log(line)
        if run.state in FINISHED:
            break
        time.sleep(POLL_INTERVAL)
    if run.state != "SUCCEEDED":
        raise MofeError(f"run {run_id} ended as {run.state.lower()}: {_reason(client, run, nodes, pipeline)}")
    return run_id


def _reason(client: Any, run: Any, nodes: list[dict[str, Any]], pipeline: PipelineSpec) -> str:
    """Why a run failed: its stages with their causes, or what Kubeflow says of it."""
    why = [f"{failure.stage} ({_cause(client, run.run_id, failure)})" for failure in failures(nodes, pipeline)]
    return "; ".join(why) or (server_message(run.error) if run.error else "the UI may say why")


def _workflow(client: Any, run_id: str) -> dict[str, Any]:
    """The workflow that carries a run out; an empty one where Kubeflow no longer has this API."""
    try:
        answer = json.loads(_get(client, f"/apis/v1beta1/runs/{run_id}"))
    except Exception as error:
        if getattr(error, "status", None) == 404:
            return {}
        raise
    workflow: dict[str, Any] = json.loads(answer.get("pipeline_runtime", {}).get("workflow_manifest") or "{}")
    return workflow


def _cause(client: Any, run_id: str, failure: Failure) -> str:
    """Why a pod failed: from its log, while there is the pod, or where Argo files logs; else what Argo says of it."""
    for name in (failure.pod, failure.node):
        with suppress(Exception):
            if cause := cause_in(_get(client, f"/apis/v1alpha1/runs/{run_id}/nodes/{name}/log")):
                return cause
    return failure.message or "its log may say why"


def _get(client: Any, path: str) -> str:
    """Of Kubeflow's API what the client has no call for."""
    api = client._run_api.api_client
    answer = api.call_api(path, "GET", auth_settings=["Bearer"], _preload_content=False, _return_http_data_only=True)
    return str(answer.data.decode("utf-8", errors="replace"))


@contextmanager
def _access(host: str, refusal: str) -> Iterator[None]:
    """Within it an error of the client, of the API or of the connection is a refusal of Kubeflow's."""
    try:
        yield
    except Exception as error:
        where = host or "the current context"
        raise MofeError(f"Kubeflow at {where} {refusal}: {server_message(error)}") from error


def _client(host: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from kfp import Client

        logging.getLogger().setLevel(logging.CRITICAL)  # the client logs every failed attempt with a traceback
        try:
            return Client(host or None, existing_token=os.environ.get("KFP_TOKEN"))
        except Exception as error:
            named = f"Kubeflow at {host}" if host else "no --host was given, and Kubeflow at kubectl's current context"
            raise MofeError(f"{named} cannot be reached: {server_message(error)}") from error
