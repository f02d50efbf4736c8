"""Joins the predictions of all shards of a batch and counts them."""

import shutil
from collections import Counter

from mofe.artifacts.predictions import PredictionSet
from mofe.errors import MofeError
from mofe.storage import locations, writing
from mofe.tracking import journal


def merge_predictions(shards: list[str], predictions: str, counts: str) -> dict[str, int]:
    """Join the predictions of all shards into one Parquet data set, in the order of the images, and count them.

    Args:
        shards: sets of predictions written by predict (paths or URIs), in any order.
        predictions: path or URI of the folder to write the whole set to.
        counts: path or URI of the JSON file to write the counts to.

    Returns:
        The numbers of images that are ``known``, ``unknown`` and ``unreadable``.

    Raises:
        MofeError: a shard is missing, damaged, given twice, or of another batch.
    """
    read = sorted(((PredictionSet.read(uri), uri) for uri in shards), key=lambda item: item[0].shards)
    numbers = [number for info, _ in read for number in info.shards]
    for info, uri in read:
        info.check(locations.resolve(uri))
        if info.made_from != read[0][0].made_from:
            raise MofeError(
                f"{uri} and {read[0][1]} are predictions of different batches or detectors: "
                "give the shards of one batch"
            )
    if not read or numbers != list(range(len(read))):
        raise MofeError(f"expected each shard from 0 to {len(read) - 1} once, found {numbers}: give every shard once")
    with journal.stage_run("merge_predictions", {"shards": len(read)}) as run:
        with writing.staged(predictions) as folder:
            for number, (_, uri) in enumerate(read):
                for file in (f"predictions/{number:05d}.parquet", f"unreadable/{number:05d}.parquet"):
                    place = locations.resolve(uri) / file
                    with locations.reading(place, "set of predictions") as part, writing.file(folder / file) as whole:
                        shutil.copyfileobj(part, whole, 1 << 24)
            known = sum((Counter(info.known) for info, _ in read), Counter[str]())
            together = {
                "shards": tuple(numbers),
                "known": dict(sorted(known.items())),
                "unknown": sum(info.unknown for info, _ in read),
                "unreadable": sum(info.unreadable for info, _ in read),
            }
            total = read[0][0].model_copy(update=together)
            total.write(folder)
        found = {"known": known.total(), "unknown": total.unknown, "unreadable": total.unreadable}
        writing.write_json(locations.resolve(counts), {**found, "known_by_class": total.known})
        print(", ".join(f"{count} {kind}" for kind, count in found.items()))
        run.metrics(found)
    return found
