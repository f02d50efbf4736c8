"""The command line: mofe run, report, compile, register, schedule, detect, serve, stage, data.

Start-up counts, so each command imports what it needs when it is called.
"""

import difflib
import functools
import importlib
import inspect
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import tyro
import yaml

from mofe import __version__
from mofe.errors import MofeError
from mofe.stages import STAGES

SUMMARY = """An image classifier that knows what it does not know.

  mofe data digits --to digits          write a small data set to play with
  mofe run -f params.yaml               run the pipeline on this machine, cached
  mofe run -f params.yaml --pipeline tables
                                        the paper's tables, or your own configurations, compared over seeds
  mofe run -f params.yaml --pipeline detect
                                        a trained detector, asked about very many images
  mofe run --only finetune --from-run RUN
                                        one stage of an earlier run again
  mofe report runs/params               its results again; --sync sends MLflow what it missed
  mofe compile -o pipeline.yaml         the pipeline as Kubeflow runs it
  mofe register --host …                make it known to Kubeflow, for its UI
  mofe schedule NAME -f params.yaml --cron '0 0 3 * * 1' --host …
                                        let Kubeflow run it again and again
  mofe detect --detector runs/params/detector IMAGES…
                                        what new images show, and whether they are like anything taught
  mofe serve --detector s3://bucket/detector
                                        the same over HTTP, by KServe's protocol
  mofe stage extract --help             one stage by hand

'mofe COMMAND --help' says more."""

PipelineName = Literal["mofe", "tables", "detect"]

_KINDS = {
    "STRING": (str, "text"),
    "NUMBER_INTEGER": (int, "a whole number"),
    "NUMBER_DOUBLE": (float, "a number"),
    "BOOLEAN": (bool, "true or false"),
    "LIST": (list, "a list"),
    "STRUCT": (dict, "a mapping"),
}


def run(
    params: Annotated[Path | None, tyro.conf.arg(aliases=["-f"])] = None,
    settings: Annotated[tuple[str, ...], tyro.conf.arg(name="set")] = (),
    work: Path | None = None,
    pipeline: PipelineName = "mofe",
    runner: Literal["subprocess", "docker", "kubeflow"] = "subprocess",
    host: str = "",
    namespace: str = "",
    registry: str = "",
    only: str = "",
    from_run: str = "",
) -> None:
    """Run the whole pipeline, on this machine or on Kubeflow; or one stage of an earlier run again.

    Stages whose inputs, parameters and code have not changed are taken from the cache of the work folder. After a
    failure, the same command goes on from the stage that failed.

    Example: mofe run -f examples/digits.yaml --set num_experts=4 epochs=5

    With --only and --from-run instead of -f one stage of an earlier run runs again, on that run's inputs: even if it is
    cached, and even if the data has changed since. What comes before it is taken from the cache, what comes after it
    does not run. On this machine its result replaces the earlier one in the cache, so the next 'mofe run -f' goes on
    from it; on Kubeflow it is that new run's alone, and stages that Kubeflow's cache no longer holds run again.

    Example: mofe run --only finetune --from-run 20260131-140211-3f9a2c --set precision=fp32

    Args:
        params: YAML file with the pipeline's parameters.
        settings: parameters that override the file's, as name=value; the value is read as YAML.
        work: folder for results, cache and logs; runs/NAME by default, NAME being the file's.
        pipeline: mofe makes one detector; tables runs the configurations of the paper's tables, or your own, with
            several seeds, and compares them. It takes the same parameters, and tables, configurations and seeds.
            detect asks a detector about very many images, in shards; its parameters are images, detector, ….
        runner: subprocess (each stage in a process of its own), docker (in its container), or kubeflow: submit the
            run, follow it, fail if it fails. A token, if needed, is read from KFP_TOKEN.
        host: kubeflow: address of Kubeflow Pipelines, for example https://kubeflow.example/pipeline.
        namespace: kubeflow: yours, where there are several.
        registry: docker and kubeflow: where your images are. On kubeflow with --from-run the stage runs its present
            code from there; left out, the very image of the earlier run.
        only: the stage to run again, for example finetune; all its executions, where it has several.
        from_run: the run it is taken from: on this machine the name of its folder in WORK/logs, on kubeflow its id.
    """
    from mofe.digests import shipped

    if only or from_run:
        _run_again(only, from_run, params, settings, work, runner, host, namespace, registry)
        return
    if params is None:
        raise MofeError("name the file with the pipeline's parameters: mofe run -f params.yaml")
    started = time.monotonic()
    file = shipped(f"{pipeline}.yaml")
    work = work or Path("runs") / (params.stem if pipeline == "mofe" else f"{params.stem}-{pipeline}")
    known = pipeline_parameters(file)
    keeps = runner != "kubeflow" and "checkpoints" in known
    here = {"checkpoints": str((work / "checkpoints").resolve())} if keeps else {}
    parameters = {**here, **read_parameters(params, settings)}
    check_parameters(parameters, known, str(params))
    if runner == "kubeflow":
        from mofe.kubeflow_runner import submit

        submit(file, parameters, host=host, name=params.stem, namespace=namespace, registry=registry)
        return

    from mofe.local_runner import run_pipeline

    result = run_pipeline(file, parameters, work, runner, name=params.stem, registry=registry or None)
    show = {"mofe": _show_result, "tables": _show_tables, "detect": _show_verdicts}[pipeline]
    show(result.outputs, work, time.monotonic() - started)


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
    """One stage of an earlier run."""
    if not (stage and run_id) or params:
        raise MofeError(
            "--only STAGE and --from-run RUN go together, without -f: the parameters are that run's; --set changes some"
        )
    if runner == "kubeflow":
        from mofe import kubeflow_runner

        earlier = kubeflow_runner.earlier_run(run_id, host=host, namespace=namespace)
    else:
        from mofe import local_runner

        work = work or next((f.parents[1] for f in Path("runs").glob(f"*/logs/{run_id}")), None)
        if work is None:
            raise MofeError(f"there is no run {run_id} in any folder of runs/; name its work folder with --work")
        earlier = local_runner.earlier_run(work, run_id)
    parameters = {**earlier.parameters, **_settings(settings)}
    check_parameters(parameters, earlier.documents[0]["root"]["inputDefinitions"]["parameters"], f"run {run_id}")
    if runner == "kubeflow":
        kubeflow_runner.submit_again(earlier, stage, parameters, host=host, namespace=namespace, registry=registry)
        return
    assert work is not None
    result = local_runner.run_again(earlier, stage, parameters, work, runner, registry)
    for execution in result.executions:
        if execution.stage == stage:
            print("", *(f"{name}: {place}" for name, place in execution.outputs.items()), sep="\n")


def read_parameters(file: Path, settings: Sequence[str]) -> dict[str, Any]:
    try:
        content = _yaml(file.read_text(), str(file))
    except FileNotFoundError as error:
        raise MofeError(f"there is no parameter file {file}") from error
    except UnicodeDecodeError as error:
        raise MofeError(f"{file} is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise MofeError(f"{file} must hold parameters, one 'name: value' a line")
    return {**content, **_settings(settings)}


def _settings(settings: Sequence[str]) -> dict[str, Any]:
    """The values of ``--set name=value …``."""
    given: dict[str, Any] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals:
            raise MofeError(f"--set {setting}: expected name=value")
        given[name] = _yaml(value, f"--set {name}") if value else ""
    return given


def _yaml(text: str, where: str) -> Any:
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError of what looks like a date
        raise MofeError(f"{where} is not YAML: {' '.join(str(error).split())}") from error


def pipeline_parameters(pipeline: Path) -> dict[str, dict[str, Any]]:
    """The parameters of a compiled pipeline: name → its type, default and description."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    root = next(iter(yaml.load_all(pipeline.read_text(), loader)))["root"]
    return dict(root["inputDefinitions"]["parameters"])


def check_parameters(
    given: dict[str, Any], known: dict[str, dict[str, Any]], where: str, *, complete: bool = True
) -> None:
    """Refuse unknown names, missing values and values of another type, before any work; whole numbers become floats.

    Args:
        given: name → value; changed where a whole number becomes a float.
        known: from :func:`pipeline_parameters`.
        where: named in errors.
        complete: whether every parameter without a default must be given.

    Raises:
        MofeError: names the parameter, the value, and what was expected; or a URI carries a password.
    """
    from mofe.parameters import check_passwords, check_values

    check_passwords(given)
    for name, value in given.items():
        if name not in known:
            close = difflib.get_close_matches(str(name), known, n=1)
            hint = f"; did you mean {close[0]}?" if close else f"; it has {', '.join(sorted(known))}"
            raise MofeError(f"{where}: the pipeline has no parameter {name!r}{hint}")
        kind, wanted = _KINDS[known[name]["parameterType"]]
        if kind is float and (type(value) is int or (isinstance(value, str) and _is_number(value))):
            given[name] = float(value)  # YAML takes 1e-4 for text
        elif not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise MofeError(f"{where}: {name} = {value!r} is not {wanted}")
    missing = [
        n for n, spec in known.items() if "defaultValue" not in spec and not spec.get("isOptional") and n not in given
    ]
    if complete and missing:
        raise MofeError(f"{where}: the parameter {missing[0]} is missing: {known[missing[0]].get('description', '')}")
    check_values(given, where, {n: spec["defaultValue"] for n, spec in known.items() if "defaultValue" in spec})


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _show_result(outputs: dict[str, Path], work: Path, seconds: float) -> None:
    from mofe import storage
    from mofe.artifacts import Metrics
    from mofe.report.text import format_table

    metrics = Metrics.read_file(outputs["metrics"])
    for name, source in (("metrics.json", outputs["metrics"]), ("report.html", outputs["report"])):
        storage.write_bytes(storage.resolve(work / name), source.read_bytes())
    _link(work / "detector", outputs["detector"])
    print(f"\n{format_table(metrics)}\n\nreport: {work / 'report.html'}   ({seconds:.1f} s)")


def _show_tables(outputs: dict[str, Path], work: Path, seconds: float) -> None:
    from mofe import storage
    from mofe.report.comparison import ComparedTable, format_tables

    for name, source in (("tables.json", outputs["results"]), ("tables.html", outputs["report"])):
        storage.write_bytes(storage.resolve(work / name), source.read_bytes())
    tables = [ComparedTable.from_dict(table) for table in json.loads(outputs["results"].read_text())]
    print(f"\n{format_tables(tables)}\n\nreport: {work / 'tables.html'}   ({seconds:.1f} s)")


def _show_verdicts(outputs: dict[str, Path], work: Path, seconds: float) -> None:
    _link(work / "verdicts", outputs["verdicts"])
    counts = json.loads(outputs["counts"].read_text())
    for name, count in counts.pop("known_by_class").items():
        print(f"{count:9,}  {name}")
    print(f"\n{', '.join(f'{count:,} {kind}' for kind, count in counts.items())}")
    print(f"verdicts: {work / 'verdicts' / 'verdicts'}   ({seconds:.1f} s)")


def _link(link: Path, target: Path) -> None:
    link.unlink(missing_ok=True)
    link.symlink_to(os.path.relpath(target, link.parent))


def compile(
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None,
    registry: str | None = None,
    pipeline: PipelineName = "mofe",
) -> None:
    """Write the pipeline as YAML for Kubeflow: upload it in the UI, or 'kfp run create -f FILE name=value …'.

    Args:
        output: file to write; the terminal if left out.
        registry: where your images are. The YAML then names each stage's image by the digest of what is in it, so
            that Kubeflow's cache sees a change of code.
        pipeline: mofe makes one detector, tables compares configurations, detect asks about very many images.
    """
    from mofe import storage
    from mofe.digests import shipped, stamp

    text = shipped(f"{pipeline}.yaml").read_text()
    if registry:
        text = stamp(text, registry.rstrip("/"))
    if output:
        storage.write_bytes(storage.resolve(output), text.encode())
    else:
        print(text, end="")


def register(
    settings: Annotated[tuple[str, ...], tyro.conf.arg(name="set")] = (),
    host: str = "",
    namespace: str = "",
    registry: str = "",
) -> None:
    """Make the pipelines known to Kubeflow: they appear in the UI, as a new version where the code has changed.

    Example: mofe register --registry registry.example/team --set train_accelerators=8 'node_selector={"pool": "gpu"}'

    Args:
        settings: defaults of the pipelines' parameters on this cluster, as name=value; the value is read as YAML.
        host: address of Kubeflow Pipelines; left out, that of the cluster that this runs in or is configured for.
        namespace: yours, where there are several.
        registry: where your images are.
    """
    from mofe.digests import shipped
    from mofe.kubeflow_runner import register as hand_over

    files = [shipped(f"{name}.yaml") for name in get_args(PipelineName)]
    defaults = _settings(settings)
    for file in files:
        if file.stem != "detect":  # it takes those of them that it has
            check_parameters(defaults, pipeline_parameters(file), "--set", complete=False)
    hand_over(files, defaults, host=host, namespace=namespace, registry=registry)


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
    """Let Kubeflow run the pipeline again and again; what has not changed since the last time is cached.

    Example: mofe schedule weekly -f params.yaml --cron '0 0 3 * * 1' --registry registry.example/team

    Args:
        name: of the schedule; one of the same name is replaced.
        params: YAML file with the pipeline's parameters.
        settings: parameters that override the file's, as name=value; the value is read as YAML.
        cron: when, in six fields: seconds, minutes, hours, day of the month, month, day of the week; in the
            time zone that Kubeflow was given.
        off: end the schedule instead.
        pipeline: as for mofe run.
        host: address of Kubeflow Pipelines; left out, that of the cluster that this runs in or is configured for.
        namespace: yours, where there are several.
        registry: where your images are.
    """
    from mofe import kubeflow_runner
    from mofe.digests import shipped

    if off:
        kubeflow_runner.unschedule(name, host=host, namespace=namespace)
        return
    if params is None or not cron:
        raise MofeError("a schedule needs parameters and times: mofe schedule NAME -f params.yaml --cron '0 0 3 * * 1'")
    file = shipped(f"{pipeline}.yaml")
    parameters = read_parameters(params, settings)
    check_parameters(parameters, pipeline_parameters(file), str(params))
    kubeflow_runner.schedule(file, parameters, cron, name=name, host=host, namespace=namespace, registry=registry)


def report(
    folder: tyro.conf.Positional[str], format: Literal["table", "csv", "latex"] = "table", sync: bool = False
) -> None:
    """Show the results of a run again, or send MLflow what it has not got.

    Example: mofe report runs/params --format latex > table.tex

    Args:
        format: table (the detector's own scores), csv or latex (those of every detector it was compared with, too).
        folder: of the run (--work), path or URI; with --sync also any folder with journals, for example that of
            MOFE_TRACKING_FOLDER.
        sync: send the events that tracking kept while MLflow at MLFLOW_TRACKING_URI could not be reached. What has been
            sent is not sent again.
    """
    from mofe import storage

    place = storage.resolve(folder)
    if sync:
        database = place / "mlflow.db"
        if "MLFLOW_TRACKING_URI" not in os.environ and storage.is_local(place) and database.exists():
            os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{database.path}"
        if "MLFLOW_TRACKING_URI" not in os.environ:
            raise MofeError(f"where should {folder} be sent? Set MLFLOW_TRACKING_URI to the address of MLflow")
        from mofe.tracking_store import send_journals

        journals, events = send_journals(place)
        print(f"sent {events} events of {journals} stages to MLflow")
    elif storage.kind(place / "tables.json"):
        from mofe.report.comparison import ComparedTable, format_tables

        tables = json.loads(storage.read_bytes(place / "tables.json", "comparison"))
        print(format_tables([ComparedTable.from_dict(table) for table in tables]))
    else:
        from mofe.artifacts import Metrics
        from mofe.report.export import as_csv, as_latex
        from mofe.report.text import format_table

        show = {"table": lambda metrics: format_table(metrics) + "\n", "csv": as_csv, "latex": as_latex}[format]
        sys.stdout.write(show(Metrics.read(place)))


def detect(
    images: tyro.conf.Positional[tuple[str, ...]],
    detector: str,
    threshold: str = "tpr=0.95",
    unknown: tuple[str, ...] = (),
    score: str = "knn",
    neighbours: int = 0,
    format: Literal["table", "csv", "jsonl", "parquet"] = "table",
    output: Annotated[str, tyro.conf.arg(aliases=["-o"])] = "",
    batch_size: int = 32,
) -> None:
    """Ask a trained detector about images: what each shows, and whether it is like anything that was taught.

    A file that is no readable image is reported and skipped. Exit status: 0 if every image is known, 3 if some are
    unknown, 4 if some files could not be read, 1 after any other error.

    Example: mofe detect --detector runs/digits/detector photos/ 's3://bucket/new/*.jpg' --neighbours 3

    Args:
        images: files, folders, globs, tar archives, Parquet files with a column image; local paths or URIs.
        detector: its folder, as index writes it; 'mofe run' leaves a link to it in the work folder.
        threshold: tpr=0.95 (keep at least this share of known images), fpr=0.05 (let through at most this share of
            the images given with --unknown), or the least score of a known image.
        unknown: images known to be unknown, to measure fpr on.
        score: which score decides: knn, msp, max_logit, energy, or one of those compared, for example tuned.vim.
        neighbours: how many of the nearest known images to name.
        format: table for people; csv, jsonl or parquet for programs, one row an image.
        output: file to write (path or URI); the terminal if left out.
        batch_size: images at once.
    """
    from mofe import storage, verdicts
    from mofe.detect import detect as verdicts_on
    from mofe.detector import load_detector
    from mofe.parameters import check_values
    from mofe.progress import progress

    check_values(
        {"threshold": threshold, "score": score, "neighbours": neighbours, "batch_size": batch_size}, "mofe detect"
    )
    if format == "parquet" and not output:
        raise MofeError("--format parquet needs a file: --output FILE")
    if not images:
        raise MofeError("name the images: files, folders, globs, archives or URIs")
    counts = {"known": 0, "unknown": 0, "unreadable": 0}

    def readable() -> Iterator[verdicts.Verdict]:
        found = verdicts_on(
            load_detector(detector), images, threshold=threshold, unknown=unknown, score=score, neighbours=neighbours,
            batch_size=batch_size,
        )  # fmt: skip
        with progress(label="detect") as bar:
            for verdict in found:
                bar.update()
                if isinstance(verdict, verdicts.Verdict):
                    counts["known" if verdict.known else "unknown"] += 1
                    yield verdict
                else:
                    counts["unreadable"] += 1
                    bar.write(verdicts.on_one_line(f"{verdict.image}: {verdict.reason}"), file=sys.stderr)

    if output:
        with storage.writing(storage.resolve(output)) as stream:
            verdicts.write(readable(), stream, format)
    else:
        verdicts.write(readable(), sys.stdout.buffer, format)
    print(", ".join(f"{count} {kind}" for kind, count in counts.items()), file=sys.stderr)
    sys.exit(4 if counts["unreadable"] else 3 if counts["unknown"] else 0)


def serve(
    detector: str,
    port: int = 8080,
    name: str = "mofe",
    threshold: str = "tpr=0.95",
    score: str = "knn",
    most_megabytes: int = 32,
    most_images: int = 64,
) -> None:
    """Serve a trained detector over HTTP, by KServe's Open Inference Protocol; needs mofe[serve].

    POST /v2/models/NAME/infer with a tensor 'image' of BYTES; GET /v2/health/ready, /metrics.

    Example: mofe serve --detector s3://bucket/detector --port 8080

    Args:
        detector: its folder, as index writes it (path or URI).
        port: to listen at.
        name: of the model in the address.
        threshold: tpr=0.95 (keep at least this share of known images), or the least score of a known image.
        score: which score decides, as for detect.
        most_megabytes: of a request's body.
        most_images: of a request; they are one batch.
    """
    from mofe.parameters import check_values

    limits = {"port": port, "most_megabytes": most_megabytes, "most_images": most_images}
    check_values({"threshold": threshold, "score": score, **limits}, "mofe serve")
    try:
        from mofe.serving import serve as answer
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("mofe"):
            raise
        raise MofeError(f"serving needs {error.name}: pip install 'mofe[serve]'") from error
    answer(
        detector, port=port, name=name, threshold=threshold, score=score, most_megabytes=most_megabytes,
        most_images=most_images,
    )  # fmt: skip


def data_digits(to: str) -> None:
    """Write the data of the demo as image folders: handwritten digits, letters, patches of photographs.

    Args:
        to: folder to make.
    """
    from mofe.data.digits import write_digits

    print(f"wrote {to}" if write_digits(to) else f"{to} is complete already")


def data_wordnet() -> None:
    """Find WordNet on this machine, or fetch it."""
    from mofe.partitioning.wordnet import ensure_wordnet

    print(f"WordNet is at {ensure_wordnet()}")


def _stage(arguments: Sequence[str]) -> None:
    """``mofe stage NAME …``: the stage's signature and docstring make its options; only its module is imported."""
    if not arguments or arguments[0] not in STAGES:
        asked = f"there is no stage {arguments[0]!r}; " if arguments and not arguments[0].startswith("-") else ""
        text = f"{asked}run one stage by hand: mofe stage NAME --help, where NAME is one of {', '.join(STAGES)}"
        if asked:
            raise MofeError(text)
        print(text)
        return
    name = arguments[0]
    function: Callable[..., Any] = getattr(importlib.import_module(f"mofe.stages.{name}"), name)

    @functools.wraps(function)
    def checked(*given: Any, **named: Any) -> Any:
        from mofe.parameters import check_passwords, check_values

        values = inspect.signature(function).bind(*given, **named).arguments
        check_passwords(values)
        check_values({n: v for n, v in values.items() if isinstance(v, int | float | str)}, f"mofe stage {name}")
        return function(*given, **named)

    result = tyro.cli(checked, args=arguments[1:], prog=f"mofe stage {name}", registry=_json_options())
    if result is not None:
        print(result)


def _json_options() -> tyro.constructors.ConstructorRegistry:
    """Options that are mappings of anything are given as JSON."""
    registry = tyro.constructors.ConstructorRegistry()

    @registry.primitive_rule
    def _(info: tyro.constructors.PrimitiveTypeInfo) -> tyro.constructors.PrimitiveConstructorSpec[Any] | None:
        if info.type not in (dict[str, Any] | None, dict[str, Any], list[dict[str, Any]]):
            return None
        return tyro.constructors.PrimitiveConstructorSpec(
            nargs=1,
            metavar="JSON",
            instance_from_str=lambda args: json.loads(args[0]),
            is_instance=lambda value: value is None or isinstance(value, dict | list),
            str_from_instance=lambda value: [json.dumps(value or {})],
        )

    return registry


def main() -> None:
    """The entry point of the ``mofe`` command."""
    arguments = sys.argv[1:]
    try:
        if not arguments or arguments[0] in ("-h", "--help"):
            print(SUMMARY)
        elif arguments[0] == "--version":
            print(f"mofe {__version__}")
        elif arguments[0] == "stage":
            _stage(arguments[1:])
        elif arguments[0] == "data":
            commands: dict[str, Callable[..., Any]] = {"digits": data_digits, "wordnet": data_wordnet}
            tyro.extras.subcommand_cli_from_dict(commands, prog="mofe data", args=arguments[1:])
        else:
            tyro.extras.subcommand_cli_from_dict(
                {
                    "run": run,
                    "report": report,
                    "compile": compile,
                    "register": register,
                    "schedule": schedule,
                    "detect": detect,
                    "serve": serve,
                },
                prog="mofe",
                args=arguments,
            )
    except MofeError as error:
        if os.environ.get("MOFE_DEBUG"):
            raise
        sys.exit(f"mofe: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
