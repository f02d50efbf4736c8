"""``mofe compile``, ``register``, ``schedule``: write the pipelines for Kubeflow, upload them, run them regularly."""

import sys
from pathlib import Path
from typing import Annotated, get_args

import tyro

from mofe.errors import MofeError
from mofe.parameters.file import PipelineName, check_parameters, pipeline_parameters, read_parameters, settings_of


def compile(
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None,
    registry: str | None = None,
    pipeline: PipelineName = "mofe",
) -> None:
    """Write the pipeline as YAML for Kubeflow: upload it in the UI, or 'kfp run create -f FILE name=value …'.

    Args:
        output: file to write; the default is the terminal.
        registry: registry of your images. The YAML then names each stage's image by the digest of its content, so that
            Kubeflow's cache notices a change of code.
        pipeline: mofe makes one detector; sharded does the same with extract and score in many parallel tasks; tables
            compares configurations; detect classifies very many images.
    """
    from mofe.runners.digests import compiled_pipeline, stamp
    from mofe.storage import locations, writing

    text = compiled_pipeline(f"{pipeline}.yaml").read_text(encoding="utf-8")
    if registry:
        text = stamp(text, registry.rstrip("/"))
    if output:
        writing.write_bytes(locations.resolve(output), text.encode())
    else:
        sys.stdout.buffer.write(text.encode())


def register(
    settings: Annotated[tuple[str, ...], tyro.conf.arg(name="set")] = (),
    host: str = "",
    namespace: str = "",
    registry: str = "",
) -> None:
    """Upload the pipelines to Kubeflow's UI, or a new version of each whose code has changed.

    Example: mofe register --registry registry.example/team --set train_accelerators=8 'node_selector={"pool": "gpu"}'

    Args:
        settings: defaults of the pipelines' parameters on this cluster, as name=value; the value is read as YAML.
        host: address of Kubeflow Pipelines; by default, that of the cluster of this pod or of the kubeconfig.
        namespace: your namespace, if Kubeflow has several.
        registry: registry of your images.
    """
    from mofe.runners import kubeflow
    from mofe.runners.digests import compiled_pipeline
    from mofe.runners.kubeflow_api import Kubeflow

    files = [compiled_pipeline(f"{name}.yaml") for name in get_args(PipelineName)]
    defaults = settings_of(settings)
    for file in files:
        if file.stem != "detect":  # detect uses only the defaults that it has parameters for
            defaults = check_parameters(defaults, pipeline_parameters(file), "--set", complete=False)
    kubeflow.register(Kubeflow(host, namespace, registry), files, defaults)


def schedule(
    name: tyro.conf.Positional[str],
    params: Annotated[Path | None, tyro.conf.arg(aliases=["-f"])] = None,
    settings: Annotated[tuple[str, ...], tyro.conf.arg(name="set")] = (),
    cron: str = "",
    off: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    pipeline: PipelineName = "mofe",
    host: str = "",
    namespace: str = "",
    registry: str = "",
) -> None:
    """Make Kubeflow run the pipeline at regular times; stages without changes since the last run are cached.

    Example: mofe schedule weekly -f params.yaml --cron '0 0 3 * * 1' --registry registry.example/team

    Args:
        name: name of the schedule; an existing schedule of that name is replaced.
        params: YAML file with the pipeline's parameters.
        settings: parameters that override the file's, as name=value; the value is read as YAML.
        cron: times in six fields: seconds, minutes, hours, day of the month, month, day of the week; in Kubeflow's
            time zone.
        off: delete the schedule instead.
        pipeline: see mofe run --help.
        host: address of Kubeflow Pipelines; by default, that of the cluster of this pod or of the kubeconfig.
        namespace: your namespace, if Kubeflow has several.
        registry: registry of your images.
    """
    from mofe.runners import kubeflow
    from mofe.runners.digests import compiled_pipeline
    from mofe.runners.kubeflow_api import Kubeflow

    there = Kubeflow(host, namespace, registry)
    if off:
        kubeflow.unschedule(there, name)
        return
    if params is None or not cron:
        raise MofeError("a schedule needs -f and --cron: mofe schedule NAME -f params.yaml --cron '0 0 3 * * 1'")
    file = compiled_pipeline(f"{pipeline}.yaml")
    parameters = check_parameters(read_parameters(params, settings), pipeline_parameters(file), str(params))
    kubeflow.schedule(there, file, parameters, cron, name=name)
