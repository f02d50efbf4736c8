"""``mofe detect``: classify new images."""

import sys
from pathlib import PurePosixPath
from typing import Annotated, Literal

import tyro

from mofe.cli.places import check_places
from mofe.errors import MofeError


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
    """Name the class of images with a trained detector, or report that an image is unknown.

    A file that cannot be read as an image is reported and skipped, also with --unknown. Text files and the like are
    only reported. Exit status: 0 if every image is known, 3 if some are unknown, 4 if some files could not be read, 1
    after any other error.

    Example: mofe detect --detector runs/demo/detector photos/ 's3://bucket/new/*.jpg' --neighbours 3

    Args:
        images: files, folders, globs, tar archives, or Parquet files with a column image; local paths or URIs; or .txt
            files that list such places, one per line.
        detector: the detector's folder, written by index; 'mofe run' puts a link to it into the work folder.
        threshold: tpr=0.95 (accept at least this share of known images), fpr=0.05 (accept at most this share of the
            images given with --unknown), or the lowest score of a known image.
        unknown: images that are known to be unknown; fpr is measured on them.
        score: score that decides: knn, msp, max_logit, energy, or a baseline of the detector, for example tuned.vim.
        neighbours: number of nearest known images to name.
        format: table for people; csv, jsonl or parquet for programs, one row per image.
        output: file to write (path or URI); the default is the terminal.
        batch_size: number of images per batch.
    """
    from mofe.inference import predictions
    from mofe.inference.detect import detect as predictions_on
    from mofe.inference.detector import load_detector
    from mofe.parameters.rules import check_values
    from mofe.progress import progress
    from mofe.storage import locations, writing

    for option, places in (("IMAGES", images), ("--detector", (detector,)), ("--unknown", unknown)):
        check_places(option, *places)
    numbers = {"neighbours": neighbours, "batch_size": batch_size}
    check_values({"threshold": threshold, "unknown": unknown, "score": score, **numbers}, "mofe detect")
    suffix = PurePosixPath(output).suffix.removeprefix(".")
    if format == "table" and suffix in ("csv", "jsonl", "parquet"):
        raise MofeError(f"--output {output} needs --format {suffix}: --format table is for people")
    if format == "parquet" and not output:
        raise MofeError("--format parquet needs a file: add --output FILE")
    if not images:
        raise MofeError("there are no images: name files, folders, globs, archives or URIs")
    counts = predictions.Counts()
    found = predictions_on(
        load_detector(detector), images, threshold=threshold, unknown=unknown, score=score, neighbours=neighbours,
        batch_size=batch_size,
    )  # fmt: skip
    bar = progress(found, label="detect")

    def report(file: predictions.Unreadable) -> None:
        bar.write(predictions.on_one_line(f"{file.image}: {file.reason}"), file=sys.stderr)

    readable = counts.count(bar, report)
    if output:
        with writing.file(locations.resolve(output)) as stream:
            predictions.write(readable, stream, format)
    else:
        predictions.write(readable, sys.stdout.buffer, format)
    passed = {"passed over": counts.passed_over} if counts.passed_over else {}
    print(", ".join(f"{count} {kind}" for kind, count in {**counts.totals(), **passed}.items()), file=sys.stderr)
    sys.exit(4 if counts.unreadable else 3 if counts.unknown else 0)
