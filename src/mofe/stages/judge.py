"""Verdicts on one shard of a batch of images."""

from collections import Counter
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from mofe import storage, tracking, writing
from mofe.detect import detect
from mofe.detector import load_detector
from mofe.errors import MofeError
from mofe.progress import progress
from mofe.stages.divide import FILES
from mofe.verdicts import UNREADABLE_SCHEMA, FileList, Unreadable, Verdict, VerdictSet, write


def judge(
    files: str,
    detector: str,
    verdicts: str,
    *,
    shard: int,
    threshold: str = "tpr=0.95",
    score: str = "knn",
    neighbours: int = 0,
    batch_size: int = 128,
) -> None:
    """Ask the detector about the images of a shard: what each shows, and whether it is like anything that was taught.

    Writes a row an image, as 'mofe detect --format parquet' does, and the files that could not be read, with reasons.

    Args:
        files: list written by divide (path or URI).
        detector: detector written by index (path or URI).
        verdicts: where to write the verdicts (path or URI of a folder).
        shard: its number.
        threshold: tpr=0.95 (keep at least this share of known images), or the least score of a known image.
        score: which score decides: knn, msp, max_logit, energy, or one of those compared, for example tuned.vim.
        neighbours: how many of the nearest known images to name.
        batch_size: images at once.
    """
    shard = int(shard)  # Kubeflow hands numbers on as floats
    batch = FileList.read(files)
    batch.check(storage.resolve(files), FILES)
    if not 0 <= shard < batch.shards:
        raise MofeError(f"shard = {shard}: {files} has the shards 0 to {batch.shards - 1}")
    with storage.open_parquet(storage.resolve(files) / FILES) as listed:
        names = listed.read_row_group(shard)["file"].to_pylist()
    model = load_detector(detector)
    asked = {"threshold": threshold, "score": score, "neighbours": neighbours, "detector": detector}
    with tracking.stage_run("judge", asked, label=f"shard {shard}") as run:
        known: Counter[str] = Counter()
        unreadable: list[dict[str, str]] = []
        unknown = 0

        def readable() -> Iterator[Verdict]:
            nonlocal unknown
            found = detect(
                model,
                map(storage.resolve, names),
                threshold=threshold,
                score=score,
                neighbours=neighbours,
                batch_size=batch_size,
            )
            with progress(label=f"judge shard {shard}") as bar:
                for verdict in found:
                    bar.update()
                    if isinstance(verdict, Unreadable):
                        unreadable.append({"image": verdict.image, "reason": verdict.reason})
                        continue
                    known[verdict.class_name] += verdict.known
                    unknown += not verdict.known
                    yield verdict

        with writing.staged(verdicts) as folder:
            with writing.file(folder / "verdicts" / f"{shard:05d}.parquet") as stream:
                write(readable(), stream, "parquet")
            with writing.file(folder / "unreadable" / f"{shard:05d}.parquet") as stream:
                pq.write_table(pa.Table.from_pylist(unreadable, UNREADABLE_SCHEMA), stream)
            VerdictSet(
                made_from={"files": batch.identity, "detector": model.info.identity},
                shards=(shard,),
                detector=detector,
                digest=batch.digest,
                threshold=threshold,
                score=score,
                known=dict(sorted((+known).items())),
                unknown=unknown,
                unreadable=len(unreadable),
            ).write(folder)
        run.metrics({"known": known.total(), "unknown": unknown, "unreadable": len(unreadable)})
