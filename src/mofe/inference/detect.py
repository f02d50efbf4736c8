"""Detection on any number of images: one prediction per image, images read ahead, in constant memory."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
from PIL import Image
from upath import UPath

from mofe.arguments import instance, text, whole
from mofe.data.images import decode
from mofe.data.listing import list_images
from mofe.data.place_lists import listed_places
from mofe.data.read_ahead import Read, read_ahead
from mofe.detection.threshold import chosen_threshold
from mofe.errors import MofeError, shown
from mofe.inference.detector import Detector
from mofe.inference.predictions import Neighbour, Prediction, Unreadable
from mofe.storage.locations import Location

AHEAD = 8
"""Number of images that are read ahead of the model."""
IN_MEMORY = "images in memory are scored by Detector.score"


def detect(
    detector: Detector,
    places: Location | Iterable[Location],
    *,
    threshold: str | float = "tpr=0.95",
    unknown: Location | Iterable[Location] = (),
    score: str = "knn",
    neighbours: int = 0,
    batch_size: int = 32,
) -> Iterator[Prediction | Unreadable]:
    """Yield a prediction for every image, in order. The unreadable files of ``unknown`` come first.

    Args:
        detector: see :func:`mofe.load_detector`.
        places: a file, folder, glob, tar archive or Parquet file, or several; see
            :func:`mofe.data.listing.find_files`; or a .txt file that lists such places, one per line.
        threshold: see :func:`mofe.detection.threshold.chosen_threshold`.
        unknown: images known to be unknown; a threshold ``fpr=…`` is measured on them.
        score: name of the score that decides, one of the detector's own or of ``info.baselines``.
        neighbours: number of nearest known images to name.
        batch_size: number of images per batch.

    Raises:
        MofeError: a place is empty or is not a path or URI, no file of ``unknown`` can be read, or the threshold or
            score does not exist; it is raised when the first prediction is taken.
    """
    instance("detector", detector, Detector)
    batch_size, neighbours = whole("batch_size", batch_size, 1), whole("neighbours", neighbours)
    unreadable: list[Unreadable] = []
    unknown, places = tuple(_places("unknown", unknown)), _places("places", places)
    limit = limit_of(detector, threshold, score, _readable(unknown, unreadable) if unknown else None)
    yield from unreadable
    pending = read_ahead(list_images(listed_places(places)), decode, ahead=AHEAD)
    while batch := list(islice(pending, batch_size)):
        readable = [(read.image.path, read.content) for read in batch if read.content]
        found = iter(predict(detector, readable, score=score, limit=limit, neighbours=neighbours))
        for read in batch:
            yield next(found) if read.content else _unreadable(read)


def _places(name: str, places: Any) -> Iterable[Location]:
    """Several places, of one or several; images in memory are refused."""
    if isinstance(places, str | os.PathLike | UPath):
        return (places,)
    if not isinstance(places, Iterable) or isinstance(places, bytes | bytearray | memoryview | Mapping | np.ndarray):
        raise MofeError(f"{name} must be a path, a URI or several, not {shown(places)}: {IN_MEMORY}")
    return map(partial(_place, name), places) if isinstance(places, Iterator) else [_place(name, p) for p in places]


def _place(name: str, place: Any) -> Location:
    if not isinstance(place, str | os.PathLike | UPath):
        raise MofeError(f"{name} must hold paths or URIs, not {shown(place)}: {IN_MEMORY}")
    return place


def limit_of(
    detector: Detector, threshold: str | float, score: str, unknown: Iterable[Image.Image] | None = None
) -> float:
    """The lowest score at which an image counts as known.

    Args:
        detector: see :func:`mofe.load_detector`.
        threshold: see :func:`mofe.detection.threshold.chosen_threshold`.
        score: name of the score that decides.
        unknown: images known to be unknown; a threshold ``fpr=…`` is measured on them.

    Raises:
        MofeError: the threshold or score does not exist, or the threshold does not use ``unknown``.
    """
    if text("score", score) not in detector.thresholds:
        raise MofeError(f"the detector has no score {score!r}; it has {', '.join(detector.thresholds)}")
    validation_n = detector.calibration[score].to_numpy()
    unknown_m = None
    if unknown is not None:
        if not str(threshold).strip().startswith("fpr"):
            raise MofeError(f"threshold {threshold!r} does not use unknown images: leave them out, or use fpr=SHARE")
        unknown_m = detector.score(unknown, scores=[score]).values[score]
    return chosen_threshold(threshold, validation_n, unknown_m)


def predict(
    detector: Detector, images: Sequence[tuple[str, Any]], *, score: str, limit: float, neighbours: int = 0
) -> list[Prediction]:
    """A prediction for each image of a batch.

    Args:
        detector: see :func:`mofe.load_detector`.
        images: names, and images in any form that :meth:`Detector.score` takes.
        score: name of the score that decides.
        limit: lowest score of a known image, from :func:`limit_of`.
        neighbours: number of nearest known images to name.

    Raises:
        MofeError: an image cannot be read.
    """
    if not images:
        return []
    pixels = [image for _, image in images]
    scores = detector.score(pixels, scores=[score], neighbours=neighbours, batch_size=len(pixels))
    p_values = detector.p_values(scores, score)
    near = [
        zip(*rows, strict=True) for rows in zip(scores.nearest_Bn.tolist(), scores.distance_Bn.tolist(), strict=True)
    ]
    return [
        Prediction(
            image=name,
            known=float(scores.values[score][i]) >= limit,  # in float64, because the limit can lie between two float32
            class_name=detector.classes[scores.predicted_B[i]],
            expert=int(scores.expert_B[i]),
            probability=float(scores.values["msp"][i]),
            score=float(scores.values[score][i]),
            p_value=float(p_values[i]),
            neighbours=tuple(_neighbour(detector, row, distance) for row, distance in near[i] if row >= 0),
        )
        for i, (name, _) in enumerate(images)
    ]


def _neighbour(detector: Detector, row: int, distance: float) -> Neighbour:
    label = detector.bank["label"][row].as_py()
    return Neighbour(detector.bank["id"][row].as_py(), detector.classes[label], distance)


def _unreadable(read: Read[Image.Image]) -> Unreadable:
    reason = f"passed over: {read.reason}" if read.passed_over else read.reason
    return Unreadable(read.image.path, reason, read.passed_over)


def _readable(places: Sequence[Location], unreadable: list[Unreadable]) -> Iterator[Image.Image]:
    """Yield the images at ``places``, and add files that are not images to ``unreadable``; one must be an image."""
    found = False
    for read in read_ahead(list_images(places), decode, ahead=AHEAD):
        if read.content:
            found = True
            yield read.content
        else:
            unreadable.append(_unreadable(read))
    if not found:
        first = unreadable[0]
        raise MofeError(f"no readable image at {', '.join(map(str, places))}: {first.image}: {first.reason}")
