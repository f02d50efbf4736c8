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


def main() -> None:
    """The entry point of the ``mofe`` command."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # of a terminal that knows no ✓
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
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is flushed when the interpreter ends
        sys.exit(141)  # as of who dies of SIGPIPE


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
    """Whether the pipe that broke is the output, as in ``mofe detect … | head``, and not a connection."""
    output = select.poll()
    output.register(sys.stdout, 0)
    return bool(output.poll(0))


if __name__ == "__main__":
    main()
