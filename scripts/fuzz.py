#!/usr/bin/env python3
"""Fuzz the code that reads untrusted files, guided by coverage.

A ValueError or MofeError is a correct answer; everything else is a finding.

    scripts/fuzz.py --minutes 2                  every target, one after another
    scripts/fuzz.py --minutes 60 --target image

| target | code |
|---|---|
| ``image`` | decoding of an image file |
| ``parquet`` | reading of a Parquet file of images |
| ``parameters`` | reading of a YAML file of parameters |
| ``detector`` | loading of a detector with a changed file and recomputed digests, as by an attacker with write access |

Needs the dependency group ``fuzz``. Findings are kept in ``--keep``; each should become a test.
"""

import argparse
import hashlib
import io
import re
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["mofe", "PIL", "yaml"]):
    from PIL import Image

    from mofe.data.images import decode, stored_form
    from mofe.data.pixels import decode_pixels
    from mofe.data.sources import open_source
    from mofe.errors import MofeError
    from mofe.parameters.file import check_parameters, pipeline_parameters, read_parameters
    from mofe.storage.checksummed_json import verify, with_checksum
sys.path.append(str(Path(__file__).parents[1] / "tests"))

Target = Callable[[bytes], None]
SECONDS_AN_INPUT, MEGABYTES = 20, 4096


def image(folder: Path) -> Target:
    def test(content: bytes) -> None:
        for function in (decode, stored_form, decode_pixels):
            with suppress(ValueError):
                function(content)

    return test


def parquet(folder: Path) -> Target:
    file = folder / "images.parquet"

    def test(content: bytes) -> None:
        file.write_bytes(content)
        with suppress(MofeError):
            for row in open_source(str(file)).images():
                with suppress(ValueError):
                    row.read()

    return test


def parameters(folder: Path) -> Target:
    from mofe.runners.digests import compiled_pipeline

    file, known = folder / "p.yaml", pipeline_parameters(compiled_pipeline("mofe.yaml"))

    def test(content: bytes) -> None:
        file.write_bytes(content)
        with suppress(MofeError):
            check_parameters(read_parameters(file, ()), known, "p.yaml")

    return test


def detector(folder: Path) -> Target:
    from mofe import load_detector

    made = small_detector(folder)
    files = sorted(f for f in made.rglob("*") if f.is_file() and f.suffix != ".faiss")

    def test(content: bytes) -> None:
        data = atheris.FuzzedDataProvider(content)
        file = files[data.ConsumeIntInRange(0, len(files) - 1)]
        good = {f: f.read_bytes() for f in (file, made / "detector.json", made / "model/config.json")}
        spoiled = bytearray(good[file])
        for _ in range(data.ConsumeIntInRange(1, 4)):
            at = data.ConsumeIntInRange(0, len(spoiled) - 1)
            piece = data.ConsumeBytes(data.ConsumeIntInRange(1, 8))
            spoiled[at : at + len(piece)] = piece
        file.write_bytes(spoiled)
        with suppress(ValueError, TypeError, KeyError, AttributeError, OSError):  # the manifest itself may be broken
            for manifest in (made / "model/config.json", made / "detector.json"):
                reseal(manifest)
        try:
            with suppress(MofeError):
                found = load_detector(str(made))
                _ = found.bank, found.calibration, found.baselines
        finally:
            for place, bytes_before in good.items():
                place.write_bytes(bytes_before)

    return test


def reseal(manifest: Path) -> None:
    """Recompute the digests in a manifest."""
    values, _ = verify(manifest.read_bytes())
    values["files"] = {
        name: hashlib.sha256((manifest.parent / name).read_bytes()).hexdigest() for name in values["files"]
    }
    manifest.write_bytes(with_checksum(values))


def small_detector(folder: Path) -> Path:
    from helpers import TINY, train_small, write_images

    from mofe.stages.extract import extract
    from mofe.stages.index import index

    write_images(folder, per_class=20)
    options = {"backbone": "vit_tiny_patch16_224", "backbone_args": TINY, "weights": "random", "num_workers": 0}
    extract(str(folder / "train"), str(folder / "features"), **options)  # type: ignore[arg-type]
    paths = train_small(folder, epochs=0)
    index(paths.images, paths.features, paths.model, paths.detector, num_workers=0)
    return Path(paths.detector)


TARGETS: dict[str, Callable[[Path], Target]] = {
    "image": image, "parquet": parquet, "parameters": parameters, "detector": detector,
}  # fmt: skip


def seeds(target: str, folder: Path) -> None:
    """Write a few valid inputs to begin with."""
    folder.mkdir()
    photo = Image.radial_gradient("L").resize((12, 9)).convert("RGB")
    files = {}
    for kind in ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"):
        photo.save(content := io.BytesIO(), kind)
        files[kind] = content.getvalue()
    if target == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pa.table({"image": [{"bytes": c, "path": n} for n, c in files.items()], "label": [0, 1, 2, 0, 1, 2]})
        pq.write_table(table, folder / "table", compression="none")  # compressed pages may claim 2 GB: SECURITY.md
    elif target == "parameters":
        for example in (Path(__file__).parents[1] / "examples").glob("*.yaml"):
            shutil.copy(example, folder)
    elif target == "image":
        for name, content_of in files.items():
            (folder / name).write_bytes(content_of)


def fuzz(target: str, place: Path, options: list[str]) -> None:
    """Fuzz a target. Call it in a separate process, because libFuzzer ends the process."""
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        test = TARGETS[target](Path(folder))
        atheris.Setup([sys.argv[0], *options, str(place)], test)
        atheris.Fuzz()


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--minutes", type=float, default=2.0, help="duration for each target")
    arguments.add_argument("--target", choices=TARGETS, action="append")
    arguments.add_argument("--keep", type=Path, default=Path("runs/fuzz"), help="folder of findings")
    arguments.add_argument("--inside", help=argparse.SUPPRESS)
    options, rest = arguments.parse_known_args()
    if options.inside:
        fuzz(options.target[0], Path(options.inside), rest)
        return
    found = 0
    print("| target | seconds | inputs | edges seen | findings |\n|---|---|---|---|---|")
    for target in options.target or TARGETS:
        keep = options.keep / target
        keep.mkdir(parents=True, exist_ok=True)
        before = set(keep.iterdir())
        with tempfile.TemporaryDirectory() as folder:
            seeds(target, corpus := Path(folder) / "corpus")
            command = [sys.executable, __file__, "--target", target, "--inside", str(corpus)]
            command += [f"-max_total_time={round(60 * options.minutes)}", f"-timeout={SECONDS_AN_INPUT}"]
            command += [f"-rss_limit_mb={MEGABYTES}", f"-artifact_prefix={keep}/", "-print_final_stats=1"]
            done = subprocess.run(command, capture_output=True, text=True, errors="replace")
        new = sorted(set(keep.iterdir()) - before)
        inputs = re.findall(r"stat::number_of_executed_units: (\d+)", done.stderr)
        seconds = re.findall(r"in (\d+) second", done.stderr)
        edges = re.findall(r"cov: (\d+)", done.stderr)
        last = [values[-1] if values else "?" for values in (seconds, inputs, edges)]
        print(f"| {target} | {' | '.join(last)} | {', '.join(f.name for f in new) or 'none'} |", flush=True)
        if new or done.returncode:
            found += 1
            _, _, trace = done.stdout.partition("Uncaught Python exception")
            print(trace[-3000:] or done.stderr[-3000:], file=sys.stderr)
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
