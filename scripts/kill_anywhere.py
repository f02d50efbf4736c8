#!/usr/bin/env python3
"""Kill a pipeline at random moments, run it again, and look whether anything was lost or anything wrong let through.

    scripts/kill_anywhere.py --times 50 --seed 0 --signal KILL
    scripts/kill_anywhere.py --disk-full

The demo's graph with small parameters runs once undisturbed. Then, as often as asked: ``mofe run`` in a fresh folder, a
signal to all its processes after a random time, and the same command again. It must complete; what had been completed
must come from the cache; every artifact must be what its manifest says; and the metrics must equal the undisturbed
run's to the last digit. It may be cut off at any time (Ctrl-C): the table so far is printed.

With --disk-full (which needs the right to mount) the work folder is a small disk instead, made larger by a little after
each failure until the run completes.
"""

import argparse
import json
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
from contextlib import suppress
from pathlib import Path
from typing import Any

from mofe import storage

ROOT = Path(__file__).parents[1]
SMALL = ("epochs=2", "probe_epochs=5", "train_images_per_class=30", "evaluation_images_per_class=20", "compare=false")
MOST_SECONDS = 900
"""Of one run."""


def command(data: Path, work: Path) -> list[str]:
    near = f"{{dataset: digits-8-9, uri: {data}/near-ood}}"
    settings = [*SMALL, f"train_data={data}/train", f"test_data={data}/test", f"ood_data=[{near}]"]
    run = [sys.executable, "-m", "mofe", "run", "-f", "examples/digits.yaml", "--work", str(work)]
    return [*run, "--set", *settings]


def start(data: Path, work: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(data, work), cwd=ROOT, start_new_session=True, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )  # fmt: skip


def finish(data: Path, work: Path) -> str:
    """Run to the end; what it printed. Raises AssertionError if it fails."""
    process = start(data, work)
    try:
        printed, _ = process.communicate(timeout=MOST_SECONDS)
    finally:
        end(process, signal.SIGKILL, 0)
    assert process.returncode == 0, f"the run ended with {process.returncode}: {printed[-2000:]}"
    return printed


def end(process: subprocess.Popen[str], how: signal.Signals, grace: float) -> None:
    """Signal every process of the run; after a time of grace kill what is left."""
    for number, seconds in ((how, grace), (signal.SIGKILL, 10.0)):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            process.poll()
            try:
                os.killpg(process.pid, 0)
            except ProcessLookupError:
                return
            time.sleep(0.05)


def executions(work: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """What the latest run in the folder has completed, by stage and label."""
    records = sorted(work.glob("logs/*/run.json"), key=lambda file: file.stat().st_mtime)
    found = json.loads(records[-1].read_text())["executions"] if records else []
    return {(e["stage"], e["label"]): e for e in found if e["key"]}


def stage_in_progress(work: Path) -> str:
    logs = sorted(work.glob("logs/*/[0-9]*.log"))
    if not logs:
        return "start"
    stage = re.sub(r"^\d+-|\.log$", "", logs[-1].name)
    return "evaluate" if (work / "metrics.json").exists() else stage.split("-")[0]


def damaged(work: Path) -> list[str]:
    """Artifacts of the latest run that are not what their manifests say."""
    bad = []
    for output in {o for e in executions(work).values() for o in e["outputs"].values() if isinstance(o, str)}:
        for manifest in Path(output).glob("*.json") if Path(output).is_dir() else []:
            values, seal = storage.unsealed(manifest.read_bytes())
            whole = seal and all(storage.sha256(manifest.parent / n) == d for n, d in values["files"].items())
            bad += [] if whole else [str(manifest)]
    return bad


def figures(work: Path) -> dict[str, Any]:
    values, seal = storage.unsealed((work / "metrics.json").read_bytes())
    assert seal, "metrics.json is damaged"
    return {name: value for name, value in values.items() if name != "made_from"}


def once(data: Path, work: Path, expected: dict[str, Any], after: float, how: signal.Signals, grace: float) -> str:
    """One kill and one run after it; in which stage it was. Raises AssertionError where something is wrong."""
    process = start(data, work)
    try:
        with suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=after)
    finally:
        end(process, how, grace)
    stage, before = stage_in_progress(work), executions(work)
    finish(data, work)
    repeated = [k for k, e in executions(work).items() if k in before and k[0] != "fingerprint" and not e["cached"]]
    assert not repeated, f"repeated although completed: {repeated}"
    assert not (bad := damaged(work)), f"not what they say: {bad}"
    assert figures(work) == expected, "the metrics differ from the undisturbed run's"
    return stage


def kill_many(options: argparse.Namespace, place: Path) -> bool:
    data = place / "digits"
    subprocess.run([sys.executable, "-m", "mofe", "data", "digits", "--to", str(data)], cwd=ROOT, check=True)
    started = time.monotonic()
    finish(data, place / "undisturbed")
    seconds, expected = time.monotonic() - started, figures(place / "undisturbed")
    print(f"undisturbed: {seconds:.1f} s; seed {options.seed}, {options.signal}\n", flush=True)
    rng, how = random.Random(options.seed), signal.Signals[f"SIG{options.signal}"]
    killed, wrong = Counter[str](), 0
    try:
        for number in range(1, options.times + 1):
            after, work = rng.uniform(0.2, seconds), place / f"run-{number}"
            try:
                stage = once(data, work, expected, after, how, options.grace)
                killed[stage] += 1
                print(f"{number:4}  {after:6.1f} s  {stage:12}  completed, same metrics", flush=True)
                shutil.rmtree(work)
            except AssertionError as error:
                wrong += 1
                print(f"{number:4}  {after:6.1f} s  WRONG: {error}\n      kept: {work}", flush=True)
    except KeyboardInterrupt:
        print("\ncut off")
    print(f"\n| killed in | times ({options.signal}) |\n|---|---|")
    for stage, times in killed.most_common():
        print(f"| {stage} | {times} |")
    print(f"| in all | {killed.total()} completed with the same metrics, {wrong} wrong |", flush=True)
    return not wrong


def fill_disk(place: Path) -> bool:
    """The run on a disk that is too small by ever less."""
    data, disk = place / "digits", place / "disk"
    subprocess.run([sys.executable, "-m", "mofe", "data", "digits", "--to", str(data)], cwd=ROOT, check=True)
    finish(data, place / "undisturbed")
    expected, size, wrong = figures(place / "undisturbed"), 256, 0
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", str(disk)], check=True)
    try:
        print("| disk | stage | what it said |\n|---|---|---|")
        while True:
            process = start(data, disk / "work")
            printed, _ = process.communicate(timeout=MOST_SECONDS)
            if not process.returncode:
                break
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
    with tempfile.TemporaryDirectory(prefix="mofe-kill-", ignore_cleanup_errors=True) as place:
        fine = fill_disk(Path(place)) if options.disk_full else kill_many(options, Path(place))
    sys.exit(0 if fine else 1)


if __name__ == "__main__":
    main()
