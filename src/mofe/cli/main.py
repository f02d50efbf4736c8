"""The command line: mofe run, report, compile, register, schedule, detect, serve, stage, data."""

import io
import os
import select
import sys
from collections.abc import Callable
from typing import Any

import tyro

from mofe import __version__
from mofe.cli import data
from mofe.cli.check import check
from mofe.cli.detect import detect
from mofe.cli.kubeflow import compile, register, schedule
from mofe.cli.report import report
from mofe.cli.run import run
from mofe.cli.serve import serve
from mofe.cli.stage import stage
from mofe.errors import MofeError

SUMMARY = """An image classifier that knows what it does not know.

  mofe data digits --to digits          write a small data set for a first try
  mofe data check PHOTOS…               what images would become in a run; copies, odd labels
  mofe run -f params.yaml               run the pipeline on this machine, cached
  mofe run -f params.yaml --pipeline tables
                                        compare the paper's tables, or your own configurations, over seeds
  mofe run -f params.yaml --pipeline detect
                                        classify very many images with a trained detector
  mofe run --only finetune --from-run RUN
                                        repeat one stage of an earlier run
  mofe report runs/params               show a run's results again; --sync sends missing events to MLflow
  mofe compile -o pipeline.yaml         write the pipeline for Kubeflow
  mofe register --host …                upload the pipelines to Kubeflow's UI
  mofe schedule NAME -f params.yaml --cron '0 0 3 * * 1' --host …
                                        make Kubeflow run the pipeline at regular times
  mofe detect --detector runs/params/detector IMAGES…
                                        name the class of new images, or report that they are unknown
  mofe serve --detector s3://bucket/detector
                                        the same over HTTP, by KServe's protocol
  mofe stage extract --help             run one stage by hand

'mofe COMMAND --help' shows the options of a command."""


def main() -> None:
    """Run the ``mofe`` command."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # some terminals cannot encode ✓
    try:
        try:
            _run(sys.argv[1:])
        finally:
            if sys.stdout:
                sys.stdout.flush()
    except MofeError as error:
        if os.environ.get("MOFE_DEBUG"):
            raise
        sys.exit(f"mofe: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        if not _reader_has_gone():
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes stdout at its end
        sys.exit(141)  # the status of a process killed by SIGPIPE


def _run(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(SUMMARY)
    elif arguments[0] == "--version":
        print(f"mofe {__version__}")
    elif arguments[0] == "stage":
        stage(arguments[1:])
    elif arguments[0] == "data":
        commands: dict[str, Callable[..., Any]] = {"check": check, "digits": data.digits, "wordnet": data.wordnet}
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


def _reader_has_gone() -> bool:
    """Whether the broken pipe is the output, as in ``mofe detect … | head``, and not a network connection."""
    output = select.poll()
    output.register(sys.stdout, 0)
    return bool(output.poll(0))


if __name__ == "__main__":
    main()
