"""``mofe detect``: new images."""

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
    """Ask a trained detector about images: what each shows, and whether it is like anything that was taught.

    A file that is no readable image is reported and skipped, one of --unknown too. Exit status: 0 if every image is
    known, 3 if some are unknown, 4 if some files could not be read, 1 after any other error.

    Example: mofe detect --detector runs/demo/detector photos/ 's3://bucket/new/*.jpg' --neighbours 3

    Args:
        images: files, folders, globs, tar archives, Parquet files with a column image; local paths or URIs; or .txt
            files that list such places, one a line.
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
        raise MofeError(f"--output {output} with --format table would be for people to read: give --format {suffix}")
    if format == "parquet" and not output:
        raise MofeError("--format parquet needs a file: --output FILE")
    if not images:
        raise MofeError("name the images: files, folders, globs, archives or URIs")
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
    print(", ".join(f"{count} {kind}" for kind, count in counts.totals().items()), file=sys.stderr)
    sys.exit(4 if counts.unreadable else 3 if counts.unknown else 0)
