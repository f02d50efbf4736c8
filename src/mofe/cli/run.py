"""``mofe run``: run the pipeline, on this machine or on Kubeflow."""

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro

from mofe.cli.places import check_places
from mofe.errors import MofeError
from mofe.parameters.file import PipelineName, check_parameters, pipeline_parameters, read_parameters, settings_of
from mofe.parameters.long_lists import write_long_lists


def run(
    params: Annotated[Path | None, tyro.conf.arg(aliases=["-f"])] = None,
    settings: Annotated[tuple[str, ...], tyro.conf.arg(name="set")] = (),
    work: str | None = None,
    pipeline: PipelineName = "mofe",
    runner: Literal["subprocess", "docker", "kubeflow"] = "subprocess",
    host: str = "",
    namespace: str = "",
    registry: str = "",
    only: str = "",
    from_run: str = "",
) -> None:
    """Run the whole pipeline on this machine or on Kubeflow, or repeat one stage of an earlier run.

    The results of stages whose inputs, parameters and code have not changed are taken from the cache in the work
    folder. After a failure, the same command continues from the stage that failed.

    Example: mofe run -f examples/digits.yaml --set num_experts=4 epochs=5

    With --only and --from-run instead of -f, one stage of an earlier run is repeated on that run's inputs, even if it
    is cached or the data has changed since. Earlier stages are taken from the cache; later stages do not run. On this
    machine, the result replaces the earlier one in the cache, so the next 'mofe run -f' continues from it. On Kubeflow,
    the result belongs to the new run only, and earlier stages that are no longer in Kubeflow's cache run again.

    Example: mofe run --only finetune --from-run 20260131-140211-3f9a2c --set precision=fp32

    Args:
        params: YAML file with the pipeline's parameters.
        settings: parameters that override the file's, as name=value; the value is read as YAML.
        work: folder for results, cache and logs; the default is runs/NAME with the name of the parameter file, and
            runs/NAME-PIPELINE for a pipeline other than mofe.
        pipeline: mofe makes one detector. sharded does the same with extract and score in as many parallel tasks as
            its parameter shards says. tables runs the configurations of the paper's tables, or your own, with several
            seeds, and compares them; it has the parameters of mofe with seeds instead of seed, without compare and
            text_…, and also tables and configurations. detect classifies very many images in shards; its parameters
            are images, detector, ….
        runner: subprocess (each stage in its own process), docker (in its container), or kubeflow: submit the run,
            follow it, and fail if it fails. A token, if needed, is read from KFP_TOKEN.
        host: address of Kubeflow Pipelines, for example https://kubeflow.example/pipeline; for kubeflow.
        namespace: your namespace, if Kubeflow has several; for kubeflow.
        registry: registry of your images; for docker and kubeflow. On kubeflow with --from-run, the stage runs its
            present code from this registry; by default, it runs the image of the earlier run.
        only: stage to repeat, for example finetune; if it has several executions, all are repeated.
        from_run: earlier run: the name of its folder in WORK/logs on this machine, its id on kubeflow.
    """
    from mofe.runners.digests import compiled_pipeline

    check_places("--work", work)
    folder = Path(work) if work else None
    if only or from_run:
        _run_again(only, from_run, params, settings, folder, runner, host, namespace, registry)
        return
    if params is None:
        raise MofeError("there is no parameter file: mofe run -f params.yaml")
    started = time.monotonic()
    file = compiled_pipeline(f"{pipeline}.yaml")
    folder = folder or Path("runs") / (params.stem if pipeline == "mofe" else f"{params.stem}-{pipeline}")
    known = pipeline_parameters(file)
    keeps = runner != "kubeflow" and "checkpoints" in known
    here = {"checkpoints": str((folder / "checkpoints").resolve())} if keeps else {}
    parameters = check_parameters({**here, **read_parameters(params, settings)}, known, str(params))
    if runner == "kubeflow":
        from mofe.runners.kubeflow import submit
        from mofe.runners.kubeflow_api import Kubeflow

        submit(Kubeflow(host, namespace, registry), file, write_long_lists(parameters, None), name=params.stem)
        return

    from mofe.runners.local import run_pipeline

    parameters = write_long_lists(parameters, folder)
    result = run_pipeline(file, parameters, folder, runner, name=params.stem, registry=registry or None)
    show = {"tables": _show_tables, "detect": _show_predictions}.get(pipeline, _show_result)
    show(result.outputs, folder, time.monotonic() - started)


def _run_again(
    stage: str,
    run_id: str,
    params: Path | None,
    settings: Sequence[str],
    work: Path | None,
    runner: Literal["subprocess", "docker", "kubeflow"],
    host: str,
    namespace: str,
    registry: str,
) -> None:
    """Repeat one stage of an earlier run."""
    if not (stage and run_id) or params:
        raise MofeError(
            "--only STAGE and --from-run RUN must be given together, without -f: that run's parameters are used, and "
            "--set changes some"
        )
    if runner == "kubeflow":
        from mofe.runners import kubeflow
        from mofe.runners.kubeflow_api import Kubeflow

        there = Kubeflow(host, namespace, registry)
        earlier = kubeflow.earlier_run(there, run_id)
    else:
        from mofe.runners import local

        work = work or next((f.parents[1] for f in Path("runs").glob(f"*/logs/{run_id}")), None)
        if work is None:
            raise MofeError(f"there is no run {run_id} in any folder of runs/; name its work folder with --work")
        earlier = local.earlier_run(work, run_id)
    known = earlier.spec[0]["root"]["inputDefinitions"]["parameters"]
    parameters = check_parameters({**earlier.parameters, **settings_of(settings)}, known, f"run {run_id}")
    if runner == "kubeflow":
        kubeflow.submit_again(there, earlier, stage, parameters)
        return
    assert work is not None
    result = local.run_again(earlier, stage, parameters, work, runner, registry)
    for execution in result.executions:
        if execution.stage == stage:
            print("", *(f"{name}: {place}" for name, place in execution.outputs.items()), sep="\n")


def _show_result(outputs: dict[str, Path], work: Path, seconds: float) -> None:
    from mofe.artifacts.metrics import Metrics
    from mofe.report.text import format_table
    from mofe.storage import locations, writing

    metrics = Metrics.read_file(outputs["metrics"])
    for name, source in (("metrics.json", outputs["metrics"]), ("report.html", outputs["report"])):
        writing.write_bytes(locations.resolve(work / name), source.read_bytes())
    _link(work / "detector", outputs["detector"])
    print(f"\n{format_table(metrics)}\n\nreport: {work / 'report.html'}   ({seconds:.1f} s)")


def _show_tables(outputs: dict[str, Path], work: Path, seconds: float) -> None:
    from mofe.report.tables import format_tables, read_tables
    from mofe.storage import locations, writing

    for name, source in (("tables.json", outputs["results"]), ("tables.html", outputs["report"])):
        writing.write_bytes(locations.resolve(work / name), source.read_bytes())
    print(f"\n{format_tables(read_tables(outputs['results']))}\n\nreport: {work / 'tables.html'}   ({seconds:.1f} s)")


def _show_predictions(outputs: dict[str, Path], work: Path, seconds: float) -> None:
    predictions = _link(work / "predictions", outputs["predictions"])
    counts = json.loads(outputs["counts"].read_text(encoding="utf-8"))
    for name, count in counts.pop("known_by_class").items():
        print(f"{count:9,}  {name}")
    print(f"\n{', '.join(f'{count:,} {kind}' for kind, count in counts.items())}")
    print(f"predictions: {predictions / 'predictions'}   ({seconds:.1f} s)")


def _link(link: Path, target: Path) -> Path:
    """Make ``link`` point to ``target``, and return it; if that fails, print why, and return ``target``."""
    try:
        link.unlink(missing_ok=True)
        link.symlink_to(os.path.relpath(target, link.parent))
    except OSError as error:
        reason = "a folder of that name exists: move it away" if link.is_dir() else error.strerror
        print(f"{link} is not a link to this run's {link.name}, which is at {target}: {reason}", file=sys.stderr)
        return target
    return link
