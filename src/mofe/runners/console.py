"""Shows a run on this machine at the terminal, and records it.

The terminal gets one line per finished stage, and the latest progress of the current stage below. The log of a stage
holds its whole output.
"""

import json
import re
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mofe.runners.record import Execution, RunRecord
from mofe.runners.stage_log import exception_in
from mofe.storage.file_names import file_name


class Console:
    """Terminal output of a run, and its record in the folder ``logs``.

    ``after_stage`` is a function that is called after each stage that ran.
    """

    def __init__(self, logs: Path, record: RunRecord):
        self.logs = logs
        self.record = record
        self.after_stage: Callable[[], None] = lambda: None
        self.terminal = sys.stdout
        self.live = self.terminal.isatty()
        record.write(logs)

    def note_cached(self, stage: str, label: str, key: str, outputs: dict[str, Any]) -> None:
        """Record a stage that was found in the cache, once per key."""
        if all(execution.key != key for execution in self.record.executions):
            self._done(Execution(stage, label, True, 0.0))
            self.note_outputs(key, outputs)

    def note_outputs(self, key: str, outputs: dict[str, Any]) -> None:
        """Record the outputs of the latest stage."""
        latest = self.record.executions[-1]
        latest.key = key
        latest.outputs = {name: _place(output) for name, output in outputs.items()}
        self.record.write(self.logs)

    def note_failure(self, message: str) -> str:
        """Record the message with which the run ends; return it."""
        self.record.failure = message
        self.record.write(self.logs)
        self._clear()
        return message

    def execute(self, command: list[str], run: Callable[[Callable[[bytes], None]], int]) -> int:
        """Run a stage with its output in a log, and record its result; return its exit status.

        It does not start a stage after another one has failed, because kfp would finish the loop first.

        Args:
            command: command of the stage, as kfp makes it.
            run: function that runs the command. It takes a function to call with each piece of output.
        """
        if self.record.failure:
            return 1
        stage = command[command.index("--function_to_execute") + 1]
        inputs = json.loads(command[command.index("--executor_input") + 1])["inputs"]
        arguments = {
            **inputs.get("parameterValues", {}),
            **{
                name: found["artifacts"][0] for name, found in inputs.get("artifacts", {}).items() if found["artifacts"]
            },
        }
        label = label_of(arguments)
        log = (
            self.logs / f"{len(self.record.executions) + 1:02d}-{file_name('-'.join(filter(None, [stage, label])))}.log"
        )
        self._show(f"  {stage} {label} …")
        started = time.monotonic()
        with log.open("wb") as file:

            def on_output(piece: bytes) -> None:
                file.write(piece)
                file.flush()
                lines = [line for line in re.split(r"[\r\n]", piece.decode(errors="replace")) if line.strip()]
                if lines:
                    self._show(f"  {lines[-1].strip()}")

            status = run(on_output)
        self.after_stage()
        seconds = time.monotonic() - started
        if status == 0:
            self._done(Execution(stage, label, False, seconds))
        else:
            self.note_failure(
                f"stage {format_stage(stage, label)} failed after {seconds:.0f} s: {_cause(log, status)}\nlog: {log}"
            )
        return status

    def _done(self, execution: Execution) -> None:
        self.record.executions.append(execution)
        self._clear()
        how = "cached" if execution.cached else f"{execution.seconds:.1f} s"
        print(f"✓ {execution.stage:<18}{execution.label:<20}{how:>10}", file=self.terminal, flush=True)

    def _show(self, text: str) -> None:
        if self.live:
            width = shutil.get_terminal_size().columns
            print(f"\r\033[2K{text[: width - 1]}", end="", file=self.terminal, flush=True)

    def _clear(self) -> None:
        if self.live:
            print("\r\033[2K", end="", file=self.terminal, flush=True)


def label_of(arguments: dict[str, Any]) -> str:
    """Text that distinguishes executions of a stage: its data set, its run of a comparison, or its shard."""
    if "name" in arguments:
        label = str(arguments["name"])
        return "" if label == "train" else label
    if isinstance(run := arguments.get("run"), dict):  # of a comparison
        return f"{run['name']} seed {run['seed']:g}"
    shard = f"shard {arguments['shard']:g}" if "shard" in arguments and arguments.get("shards") != 1 else ""
    return " ".join(filter(None, [_data_set(arguments), shard]))


def _data_set(arguments: dict[str, Any]) -> str:
    """Name of the evaluation set whose images, or whose parts of scores, a stage takes; "" if it takes neither."""
    for argument, file, key in (("images", "dataset.json", "name"), ("parts", "part.json", "dataset")):
        given = arguments.get(argument)
        given = given[0] if isinstance(given, list) and given else given
        uri = given.get("uri") if isinstance(given, dict) else getattr(given, "uri", None)
        manifest = Path(str(uri)) / file
        if uri and manifest.is_file():
            label = str(json.loads(manifest.read_text("utf-8")).get(key, ""))
            return "" if label == "train" else label
    return ""


def format_stage(stage: str, label: str) -> str:
    """Name of a stage with its label in parentheses, if any."""
    return f"{stage} ({label})" if label else stage


def _place(output: Any) -> Any:
    """The URI of an artifact, the URIs of a list of artifacts, or the value of a parameter."""
    if isinstance(output, list):
        return [_place(item) for item in output]
    return getattr(output, "uri", output)


def _cause(log: Path, status: int) -> str:
    """Why a stage failed, in one line: the exception that ended it, the signal, or its last line."""
    text = log.read_text("utf-8", errors="replace")
    kind, cause = exception_in(text)
    if kind == "MofeError" and " is damaged" in cause:
        return f"{cause} (remove its folder, and the next run makes it)"
    if cause:
        return cause
    if status < 0 or status in (137, 143):
        signal = -status if status < 0 else status - 128
        return f"it was killed by signal {signal}" + (" (out of memory?)" if signal == 9 else "")
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else f"exit status {status}"
