"""Predicts on one shard of a batch of images."""

import pyarrow as pa
import pyarrow.parquet as pq

from mofe.artifacts.predictions import FileList, PredictionSet
from mofe.errors import MofeError
from mofe.inference.detect import detect
from mofe.inference.detector import load_detector
from mofe.inference.predictions import UNREADABLE_SCHEMA, Counts, Unreadable, write
from mofe.progress import progress
from mofe.stages.list_files import FILES
from mofe.storage import locations, writing
from mofe.tracking import journal


def predict(
    files: str,
    detector: str,
    predictions: str,
    *,
    shard: int,
    threshold: str = "tpr=0.95",
    score: str = "knn",
    neighbours: int = 0,
    batch_size: int = 128,
) -> None:
    """Predict the class of each image of a shard, and whether the image belongs to any known class.

    Writes one row per image, in the format of 'mofe detect --format parquet', and the files that could not be read,
    with reasons.

    Args:
        files: list written by list_files (path or URI).
        detector: detector written by index (path or URI).
        predictions: path or URI of the folder to write the predictions to.
        shard: number of the shard.
        threshold: tpr=0.95 (accept at least this share of known images), or the least score of a known image.
        score: score that decides: knn, msp, max_logit, energy, or a published baseline, for example tuned.vim.
        neighbours: number of nearest known images to name.
        batch_size: images per batch.

    Raises:
        MofeError: the list has no such shard, or the detector cannot be used.
    """
    shard = int(shard)  # Kubeflow passes numbers as floats
    batch = FileList.read(files)
    batch.check(locations.resolve(files), FILES)
    if not 0 <= shard < batch.shards:
        raise MofeError(f"shard = {shard} does not exist: {files} has the shards 0 to {batch.shards - 1}")
    with locations.open_parquet(locations.resolve(files) / FILES) as listed:
        names = listed.read_row_group(shard)["file"].to_pylist()
    model = load_detector(detector)
    shown = {"threshold": threshold, "score": score, "neighbours": neighbours, "detector": detector}
    with journal.stage_run("predict", shown, label=f"shard {shard}") as run:
        found = detect(
            model,
            map(locations.resolve, names),
            threshold=threshold,
            score=score,
            neighbours=neighbours,
            batch_size=batch_size,
        )
        counts = Counts()
        unreadable: list[Unreadable] = []
        with writing.staged(predictions) as folder:
            with writing.file(folder / "predictions" / f"{shard:05d}.parquet") as stream:
                seen = progress(found, label=f"predict shard {shard}")
                write(counts.count(seen, unreadable.append), stream, "parquet")
            with writing.file(folder / "unreadable" / f"{shard:05d}.parquet") as stream:
                pq.write_table(pa.Table.from_pylist([vars(item) for item in unreadable], UNREADABLE_SCHEMA), stream)
            PredictionSet(
                made_from={"files": batch.identity, "detector": model.info.identity},
                shards=(shard,),
                detector=locations.recorded(detector),
                digest=batch.digest,
                threshold=threshold,
                score=score,
                known=dict(sorted(counts.known.items())),
                unknown=counts.unknown,
                unreadable=counts.unreadable,
            ).write(folder)
        run.metrics(counts.totals())
