#!/usr/bin/env python3
"""Load a server without pause, and check that it answers every valid request and that its memory does not grow.

    scripts/soak.py --minutes 20
    scripts/soak.py --minutes 20 --detector runs/demo/detector

Several clients send requests to ``mofe serve`` at once, with images whose predictions are known. One request in a
hundred is malformed. Prints a table: answers, latencies beside the time of the forward pass alone, and the slope of the
server's memory after the first tenth of the time. The script can be stopped at any time (Ctrl-C).
"""

import argparse
import base64
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from http.client import HTTPConnection
from pathlib import Path

import numpy as np
import torch

sys.path.append(str(Path(__file__).parents[1] / "tests"))
IMAGES_A_REQUEST = 4


class Clients:
    """Shared state of all clients: the images, the expected classes, and the answers."""

    def __init__(self, port: int, images: list[bytes], classes: list[str], malformed: float):
        self.port, self.images, self.classes, self.malformed = port, images, classes, malformed
        self.seconds: list[float] = []
        self.outcomes: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.ended = threading.Event()

    def run(self, seed: int) -> None:
        """Send requests until ``ended`` is set; a connection is reused until it breaks."""
        rng = random.Random(seed)
        connection = HTTPConnection("127.0.0.1", self.port, timeout=120)
        while not self.ended.is_set():
            bad = rng.random() < self.malformed
            chosen = rng.sample(range(len(self.images)), IMAGES_A_REQUEST)
            body = self.malformed_body(rng, chosen) if bad else self.body([self.images[i] for i in chosen])
            started = time.perf_counter()
            try:
                connection.request("POST", "/v2/models/mofe/infer", body, {"Content-Type": "application/json"})
                answer = connection.getresponse()
                status, content = answer.status, answer.read()
            except OSError as error:
                status, content = 0, str(error).encode()
                connection.close()
            self.record(bad, chosen, status, content, time.perf_counter() - started)

    def record(self, bad: bool, chosen: list[int], status: int, content: bytes, seconds: float) -> None:
        expected = range(400, 500) if bad else range(200, 201)
        self.outcomes[f"{'malformed' if bad else 'good'}: {status}"] += 1
        if status not in expected:
            self.wrong.append(f"{'malformed' if bad else 'good'} request: {status} {content[:200]!r}")
        elif not bad:
            self.seconds.append(seconds)
            found = next(t["data"] for t in json.loads(content)["outputs"] if t["name"] == "class")
            if found != [self.classes[i] for i in chosen]:
                self.wrong.append(f"other classes than expected: {found}")

    def body(self, images: list[bytes], **changes: object) -> bytes:
        data = [base64.b64encode(image).decode() for image in images]
        tensor = {"name": "image", "shape": [len(data)], "datatype": "BYTES", "data": data, **changes}
        return json.dumps({"inputs": [tensor]}).encode()

    def malformed_body(self, rng: random.Random, chosen: list[int]) -> bytes:
        images = [self.images[i] for i in chosen]
        whole = self.body(images)
        return rng.choice([
            b"", b"{", b"\xff\xfe" * 50, whole[: len(whole) // 2], whole.replace(b"image", b"picture"),
            self.body([image[: len(image) // 2] for image in images]), self.body([b"no image"] * 4),
            self.body(images, data=["%%"] * 4), self.body(images, shape=[-1]), self.body(images * 40),
            self.body(images, datatype="FP32"), json.dumps({"inputs": [[]] * 1000}).encode(), b"[" * 5000,
        ])  # fmt: skip


def memory(pid: int) -> float:
    """Resident memory of a process in MB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def small_detector(folder: Path) -> str:
    from helpers import TINY, train_small, write_images

    from mofe.stages.extract import extract
    from mofe.stages.index import index

    write_images(folder, per_class=20)
    options = {"backbone": "vit_tiny_patch16_224", "backbone_args": TINY, "weights": "random", "num_workers": 0}
    extract(str(folder / "train"), str(folder / "features"), **options)  # type: ignore[arg-type]
    paths = train_small(folder, epochs=4)
    index(paths.images, paths.features, paths.model, paths.detector, compare=False, num_workers=0)
    return str(paths.detector)


def soak(options: argparse.Namespace, folder: Path) -> bool:
    from helpers import striped

    from mofe import load_detector
    from mofe.data.images import decode
    from mofe.data.loader import evaluation_transform, normalised
    from mofe.device import autocast, device

    where = options.detector or small_detector(folder)
    rng = np.random.default_rng(0)
    images = [striped(i % 4, rng, size=options.size) for i in range(32)]
    detector = load_detector(where)
    classes = [detector.classes[c] for c in detector.score(images).predicted_B]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mofe", "serve", "--detector", where, "--port", str(port), "--max-images", "64"]
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=dict(os.environ))
    clients = Clients(port, images, classes, options.malformed)
    threads = [threading.Thread(target=clients.run, args=(seed,)) for seed in range(options.clients)]
    track: list[tuple[float, float]] = []
    try:
        wait_until_ready(server, port)
        started = time.monotonic()
        for thread in threads:
            thread.start()
        while server.poll() is None and (past := time.monotonic() - started) < 60 * options.minutes:
            track.append((past, memory(server.pid)))
            time.sleep(1)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
    finally:
        alive = server.poll() is None
        clients.ended.set()
        for thread in threads:
            if thread.ident:
                thread.join()
        server.terminate()
        server.wait()
    preprocessing = detector.config.backbone.preprocessing
    transform = evaluation_transform(preprocessing)
    pixels = torch.stack([transform(decode(image)) for image in images[:IMAGES_A_REQUEST]])
    batch = normalised(pixels.to(device()), preprocessing)
    bare = []
    with torch.inference_mode(), autocast("auto"):
        for _ in range(50):
            begun = time.perf_counter()
            detector.model(batch)
            bare.append(time.perf_counter() - begun)
    late_S = np.array([point for point in track if point[0] >= track[-1][0] / 10])
    slope = np.polyfit(late_S[:, 0], late_S[:, 1], 1)[0] * 3600 if len(late_S) > 2 else float("nan")
    p50, p95, p99 = (1000 * np.percentile(clients.seconds, [50, 95, 99])).tolist()
    lines = {
        "time": f"{track[-1][0] / 60:.1f} min, {options.clients} clients, {IMAGES_A_REQUEST} images per request",
        "answers": ", ".join(f"{name} × {count}" for name, count in sorted(clients.outcomes.items())),
        "wrong": str(len(clients.wrong)) + (f", the first: {clients.wrong[0]}" if clients.wrong else ""),
        "server": "alive at the end" if alive else "DEAD",
        "latency, ms": f"p50 {p50:.1f}, p95 {p95:.1f}, p99 {p99:.1f}",
        "forward pass alone, ms": f"median {1000 * float(np.median(bare)):.1f}",
        "memory": f"{late_S[0, 1]:.0f} to {late_S[-1, 1]:.0f} MB, {slope:+.1f} MB an hour",
    }
    print("| measurement | result |\n|---|---|\n" + "\n".join(f"| {name} | {text} |" for name, text in lines.items()))
    return alive and not clients.wrong


def wait_until_ready(server: subprocess.Popen[bytes], port: int) -> None:
    while server.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/models/mofe/ready"):
                return
        except OSError:
            time.sleep(0.2)
    sys.exit("the server ended before it was ready: see its log")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--minutes", type=float, default=20.0)
    arguments.add_argument("--clients", type=int, default=4)
    arguments.add_argument("--malformed", type=float, default=0.01, help="share of malformed requests")
    arguments.add_argument("--detector", default="", help="the detector's folder; by default a small detector is made")
    arguments.add_argument("--size", type=int, default=64, help="side of the images in pixels")
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory(prefix="mofe-soak-") as folder:
        fine = soak(options, Path(folder))
    sys.exit(0 if fine else 1)


if __name__ == "__main__":
    main()
