"""The gallery of an evaluation set: thumbnails of the images that :mod:`mofe.report.gallery` chooses."""

import io
from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from mofe.artifacts.image_shards import ImageShards
from mofe.artifacts.scores import GALLERY_SCHEMA
from mofe.data.images import decode
from mofe.report.gallery import chosen

THUMBNAIL = 112
"""Longest side of a thumbnail in pixels."""


def gallery(
    source: ImageShards,
    mine: range,
    columns: Mapping[str, np.ndarray],
    nearest_B: np.ndarray,
    bank: pa.Table,
    threshold: float,
) -> pa.Table:
    """Make thumbnails of the most confident mistakes and of borderline images, a table of :data:`GALLERY_SCHEMA`.

    Args:
        source: image set.
        mine: positions of the B images that were scored.
        columns: ``label``, ``predicted``, ``expert`` and ``knn`` of each of these images, (B,).
        nearest_B: row of the known image that is nearest to each of these images.
        bank: ``id`` and ``label`` of the known images.
        threshold: threshold of the KNN score.
    """
    rows = []
    for kind, places in chosen(source.info.role, columns, threshold).items():
        for place in places:
            content, path, _ = source.image(mine[place])
            row = {name: columns[name][place].item() for name in ("label", "predicted", "expert", "knn")}
            row |= {"nearest": bank["id"][nearest_B[place]].as_py()}
            row |= {"nearest_label": bank["label"][nearest_B[place]].as_py()}
            rows.append({"id": path, "kind": kind, "thumbnail": _thumbnail(content), **row})
    return pa.Table.from_pylist(rows, schema=GALLERY_SCHEMA)


def _thumbnail(content: bytes) -> bytes:
    image = decode(content)
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    encoded = io.BytesIO()
    image.save(encoded, "JPEG", quality=85)
    return encoded.getvalue()
