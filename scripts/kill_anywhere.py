#!/usr/bin/env python3
"""Kill a pipeline many times at random moments, and check that nothing is lost and no result is wrong.

    scripts/kill_anywhere.py --times 50 --seed 0 --signal KILL
    scripts/kill_anywhere.py --disk-full

The demo's graph with small parameters runs once undisturbed. Then, in a new folder, ``mofe run`` starts and all its
processes get a signal; the same command starts again and gets another signal, and so on; the last run completes. So
many kills cost little more than one run, and each kill meets the remains of the earlier ones. The run and its stages
are forked from this process, which has imported the libraries. So a signal hits work, not imports, which would take
most of the time.

The kills are spread equally over the stages and over three moments: some time during the stage; while a half-written
file exists; and shortly after, when the stage ends and its result goes into the cache. The table shows what a kill
really hit.

After each signal, the completed results must match their manifests. At the end, no completed result may have been
computed again, and the metrics must equal those of the undisturbed run to the last digit. The script can be stopped at
any time (Ctrl-C): it prints a line for each kill, and the table after each completed run.

With --disk-full (which needs the right to mount) the work folder is a small disk. The disk grows a little after each
failure, until the run completes.
"""

import argparse
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Collection
from concurrent.futures import thread
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, cast
from unittest.mock import patch

from kfp.dsl import executor_main

from mofe.cli import main as command_line
from mofe.cli.data import digits
from mofe.runners.processes import StageProcesses
from mofe.stages import STAGES
from mofe.storage import locations
from mofe.storage.checksummed_json import verify

FORK = multiprocessing.get_context("fork")
ROOT = Path(__file__).parents[1]
SMALL = ("epochs=2", "probe_epochs=5", "train_images_per_class=30", "evaluation_images_per_class=20", "compare=false")
MAX_SECONDS = 900
"""Longest duration of one run."""
KILLS_A_COMPLETION = 13
BEFORE = "before all stages"
MOMENTS = {"works": 1.0, "writes": 0.01, "ends": 0.3}
"""Longest delay of a kill: as a share of the stage's duration after it began, or in seconds after a half-written file
appeared, or disappeared."""
POLL_INTERVAL = 0.005
"""Seconds between two looks, because files are half-written for a short time only."""
WRITTEN = ("artifacts", "checkpoints")
"""Folders of a work folder to which stages write."""

Hits = Counter[tuple[str, str]]
"""Number of hits by stage and by its activity."""


# ---------------------------------------------------------------------------------------------------------- a run


def arguments(data: Path, work: Path) -> list[str]:
    near = f"{{dataset: digits-8-9, uri: {data}/near-ood}}"
    settings = [*SMALL, f"train_data={data}/train", f"test_data={data}/test", f"ood_data=[{near}]"]
    return ["run", "-f", str(ROOT / "examples/digits.yaml"), "--work", str(work), "--set", *settings]


def run_mofe(arguments: list[str], printed: Path) -> None:
    """Run the command ``mofe`` in a forked process."""
    os.setpgid(0, 0)
    os.chdir(ROOT)
    redirect_output(os.open(printed, os.O_WRONLY | os.O_CREAT | os.O_TRUNC))
    sys.argv = ["mofe", *arguments]
    with patch.object(StageProcesses, "run", start_stage):
        command_line.main()


def start_stage(
    _: StageProcesses, command: list[str], environment: dict[str, str], on_output: Callable[[bytes], None]
) -> int:
    """Replace StageProcesses.run: run the same command in a forked process."""
    reader, writer = os.pipe()
    process = FORK.Process(target=run_stage, args=(command, environment, writer))
    process.start()
    os.close(writer)
    while piece := os.read(reader, 1 << 16):
        on_output(piece)
    process.join()
    os.close(reader)
    return int(process.exitcode or 0)


def run_stage(command: list[str], environment: dict[str, str], writer: int) -> None:
    """Run a component of kfp in a forked process, as the shell would run ``sh -ec SCRIPT SOURCE ARGUMENTS``."""
    _, _, _, source, *rest = command
    redirect_output(writer)
    # the runner's threads do not exist in this process, so it must not wait for them at its end
    cast(dict[Any, Any], thread._threads_queues).clear()
    os.environ.update(environment)
    file = Path(tempfile.mkdtemp()) / "ephemeral_component.py"
    file.write_text(source)
    sys.argv = ["executor_main", "--component_module_path", str(file), *rest]
    executor_main.executor_main()


def redirect_output(descriptor: int) -> None:
    for number in (1, 2):
        os.dup2(descriptor, number)


class Run:
    """``mofe run`` in a folder that may hold the results of earlier runs."""

    def __init__(self, data: Path, work: Path):
        self.work, self.earlier, self.left = work, run_folders(work), half_written(work)
        self.printed = data.with_name(f"{work.name}.printed")
        self.process = FORK.Process(target=run_mofe, args=(arguments(data, work), self.printed))
        self.process.start()
        with suppress(PermissionError):  # the process sets its group, too; only the first call succeeds
            os.setpgid(self.process.pid or 0, self.process.pid or 0)

    def finish(self) -> int:
        """Wait for the end of the run; return its exit status."""
        self.process.join(MAX_SECONDS)
        ended = self.process.exitcode
        self.end(signal.SIGKILL, 0)
        assert ended is not None, f"the run had not ended after {MAX_SECONDS} s: {self.printed.read_text()[-2000:]}"
        return ended

    def end(self, how: signal.Signals, grace: float) -> bool:
        """Signal every process of the run, and kill the rest after a grace period; True if there was no rest."""
        group = self.process.pid or 0
        for number, seconds in ((how, grace), (signal.SIGKILL, 10.0)):
            with suppress(ProcessLookupError):
                os.killpg(group, number)
            late = time.monotonic() + seconds
            while time.monotonic() < late:
                self.process.join(0)
                try:
                    os.killpg(group, 0)
                except ProcessLookupError:
                    return number == how
                time.sleep(0.05)
        return False

    def folder(self) -> Path | None:
        """The folder of its logs, once it exists."""
        return next((folder for folder in run_folders(self.work) if folder not in self.earlier), None)

    def stages(self) -> list[str]:
        """The stages that it has started, in order, without those from the cache."""
        folder = self.folder()
        return [name_of(log) for log in logs(folder)] if folder else []

    def half_written(self, parts: Collection[str] = WRITTEN) -> set[str]:
        return half_written(self.work, parts) - self.left

    def where(self) -> tuple[str, str]:
        """Its current stage, and the activity of this stage."""
        folder = self.folder()
        if folder is None or not logs(folder):
            return BEFORE, "at work"
        latest = logs(folder)[-1]
        if len(completed(folder)) >= int(latest.split("-")[0]):
            return name_of(latest), "just completed"
        return name_of(latest), "half-written" if self.half_written() else "at work"


# ------------------------------------------------------------------------------------------------ results of runs


def run_folders(work: Path) -> list[Path]:
    return sorted(work.glob("logs/*/"))


def logs(folder: Path) -> list[str]:
    """Names of the logs of the stages that a run has started: ``03-prepare-id-test``."""
    return sorted(log.stem for log in folder.glob("[0-9]*.log"))


def name_of(log: str) -> str:
    return re.sub(r"^\d+-", "", log)


def completed(folder: Path) -> list[dict[str, Any]]:
    """The stages that a run has completed or found in the cache, in order."""
    record = folder / "run.json"
    return [e for e in json.loads(record.read_text())["executions"] if e["key"]] if record.exists() else []


def half_written(work: Path, parts: Collection[str] = WRITTEN) -> set[str]:
    walks = (os.walk(work / part) for part in parts)
    names = (f"{folder}/{name}" for walk in walks for folder, *below in walk for name in (*below[0], *below[1]))
    return {name for name in names if ".partial-" in name}


def check_completed(work: Path) -> None:
    """Check that the outputs of completed stages match their manifests."""
    outputs = [o for run in run_folders(work) for e in completed(run) for o in e["outputs"].values()]
    for output in {Path(o) for o in outputs if isinstance(o, str) and o.startswith("/")}:
        assert output.exists(), f"the output {output} is missing"
        for manifest in output.glob("*.json"):
            values, seal = verify(manifest.read_bytes())
            whole = seal and all(locations.sha256(output / name) == digest for name, digest in values["files"].items())
            assert whole, f"the files do not match the manifest {manifest}"


def check_nothing_repeated(work: Path) -> None:
    """Check that no run computed a result that an earlier run had completed; only fingerprint runs every time."""
    known: set[str] = set()
    for run in run_folders(work):
        own = [e for e in completed(run) if e["stage"] != "fingerprint"]
        again = [f"{e['stage']} {e['label']}" for e in own if e["key"] in known and not e["cached"]]
        assert not again, f"repeated although completed: {again}"
        known |= {e["key"] for e in own}


def figures(work: Path) -> dict[str, Any]:
    values, seal = verify((work / "metrics.json").read_bytes())
    assert seal, "metrics.json is damaged"
    return {name: value for name, value in values.items() if name != "made_from"}


# ---------------------------------------------------------------------------------------------------------- kills


class Undisturbed(NamedTuple):
    """Results of the run without kills."""

    stages: dict[str, float]
    """Names in order, with the duration of each in seconds."""
    figures: dict[str, Any]


class Target(NamedTuple):
    """Planned place and time of a kill."""

    place: int
    """Position of the stage in the graph."""
    moment: str
    seconds: float
    """Delay after the moment."""


def undisturbed(data: Path, work: Path) -> Undisturbed:
    begun = time.monotonic()
    assert (run := Run(data, work)).finish() == 0, run.printed.read_text()[-2000:]
    (folder,) = run_folders(work)
    seconds = [e["seconds"] for e in completed(folder)]
    stages = dict(zip(map(name_of, logs(folder)), seconds, strict=True))
    return Undisturbed({BEFORE: time.monotonic() - begun - sum(seconds), **stages}, figures(work))


def shuffled_targets(stages: dict[str, float], rng: random.Random) -> list[Target]:
    """Every stage at every moment, in random order."""
    whole = [
        Target(place, moment, rng.uniform(0, longest * (seconds if moment == "works" else 1)))
        for place, seconds in enumerate(stages.values())
        for moment, longest in MOMENTS.items()
        if place or moment == "works"
    ]
    return rng.sample(whole, len(whole))


def wait_for(target: Target, run: Run, stages: list[str]) -> None:
    """Return when the run has reached or passed the target, or has ended."""

    def until(condition: Callable[[], object], longest: float = MAX_SECONDS) -> None:
        late = time.monotonic() + longest
        while run.process.exitcode is None and time.monotonic() < late and not condition():
            time.sleep(POLL_INTERVAL)

    if target.place:
        until(lambda: any(stages.index(name) >= target.place for name in run.stages()))
        at = run.stages()
        if target.moment == "writes":
            until(lambda: run.half_written() or run.stages() != at)
        if target.moment == "ends":
            until(lambda: run.half_written(["artifacts"]) or run.stages() != at)
            until(lambda: not run.half_written(["artifacts"]) or run.stages() != at)
    at = run.stages()
    until(lambda: run.stages() != at, target.seconds)


def kill_and_complete(
    data: Path, work: Path, plan: list[Target], expected: Undisturbed, how: signal.Signals, grace: float, hits: Hits
) -> None:
    """Kill runs in the order of the graph, then let a run complete.

    Raises:
        AssertionError: a result is lost, wrong or computed twice.
    """
    stages = list(expected.stages)
    for target in sorted(plan, key=lambda target: (target.place, list(MOMENTS).index(target.moment))):
        run = Run(data, work)
        try:
            wait_for(target, run, stages)
            ended = run.process.exitcode
        finally:
            gone = run.end(how, grace)
        assert not ended, f"the run failed by itself: {run.printed.read_text()[-2000:]}"
        if ended is None:
            hits[run.where()] += 1
            meant = f"{stages[target.place]} as it {target.moment}, {target.seconds:.2f} s"
            print(f"{hits.total():4}  {', '.join(run.where())}   ({meant})", flush=True)
            assert gone, f"a process still ran {grace:.0f} s after the signal"
        check_completed(work)
    last = Run(data, work)
    assert last.finish() == 0, f"the last run failed: {last.printed.read_text()[-2000:]}"
    check_completed(work)
    check_nothing_repeated(work)
    assert figures(work) == expected.figures, "the metrics differ from the undisturbed run's"


def kill_many(options: argparse.Namespace, place: Path) -> bool:
    data = prepared_data(place)
    expected = undisturbed(data, place / "undisturbed")
    print(f"undisturbed: {sum(expected.stages.values()):.1f} s; seed {options.seed}, SIG{options.signal}", flush=True)
    rng, how = random.Random(options.seed), signal.Signals[f"SIG{options.signal}"]
    targets: list[Target] = []
    hits, right, wrong = Hits(), 0, 0
    try:
        while hits.total() < options.times:
            count = min(KILLS_A_COMPLETION, options.times - hits.total())
            if len(targets) < count:
                targets += shuffled_targets(expected.stages, rng)
            plan, targets = targets[:count], targets[count:]
            work = place / f"run-{right + wrong + 1}"
            try:
                kill_and_complete(data, work, plan, expected, how, options.grace, hits)
                right += 1
                shutil.rmtree(work)
            except AssertionError as error:
                wrong += 1
                print(f"WRONG: {error}\n      kept: {work}", flush=True)
            show(hits, list(expected.stages), right, wrong, options.signal)
    except KeyboardInterrupt:
        print("\nstopped")
        show(hits, list(expected.stages), right, wrong, options.signal)
    return not wrong


def show(hits: Hits, stages: list[str], right: int, wrong: int, how: str) -> None:
    doing = ("at work", "half-written", "just completed")
    print(f"\n| SIG{how} in | {' | '.join(doing)} |\n|---|---|---|---|")
    for stage in stages:
        print(f"| {stage} | {' | '.join(str(hits[stage, what]) for what in doing)} |")
    print(f"\n{hits.total()} kills; {right} runs completed with the same metrics, {wrong} went wrong\n", flush=True)


def prepared_data(place: Path) -> Path:
    data = place / "digits"
    digits(str(data))
    return data


def fill_disk(place: Path) -> bool:
    """Run on a disk that is too small, and enlarge it after each failure until the run completes."""
    data, disk = prepared_data(place), place / "disk"
    expected, size, wrong = undisturbed(data, place / "undisturbed").figures, 256, 0
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", str(disk)], check=True)
    try:
        print("| disk | stage | message |\n|---|---|---|")
        while True:
            run = Run(data, disk / "work")
            if run.finish() == 0:
                break
            printed = run.printed.read_text()
            last = next((line for line in printed.splitlines()[::-1] if "No space left" in line), "")
            wrong += not last
            found = re.search(r"stage (\w+)", last)
            print(f"| {size} kB | {found[1] if found else '?'} | {last or printed[-500:]} |", flush=True)
            size = int(size * 1.5)
            subprocess.run(["mount", "-o", f"remount,size={size}k", str(disk)], check=True)
        same = figures(disk / "work") == expected
        print(f"| {size} kB | all | completed, {'same metrics' if same else 'OTHER METRICS'} |")
        return same and not wrong
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--times", type=int, default=50)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--signal", choices=("KILL", "TERM"), default="KILL")
    arguments.add_argument("--grace", type=float, default=30.0, help="seconds between SIGTERM and SIGKILL")
    arguments.add_argument("--disk-full", action="store_true")
    options = arguments.parse_args()
    for stage in STAGES:
        import_module(f"mofe.stages.{stage}")
    place = Path(tempfile.mkdtemp(prefix="mofe-kill-"))
    fine = fill_disk(place) if options.disk_full else kill_many(options, place)
    if fine:
        shutil.rmtree(place)
    sys.exit(0 if fine else 1)


if __name__ == "__main__":
    main()
