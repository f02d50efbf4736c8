"""The gallery of an evaluation set: small pictures of the images that :mod:`mofe.report.gallery` chooses."""

import io
from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from mofe.artifacts.image_shards import ImageShards
from mofe.artifacts.scores import GALLERY_SCHEMA
from mofe.data.images import decode
from mofe.report.gallery import chosen

THUMBNAIL = 112
"""Longest side in pixels."""


def gallery(
    source: ImageShards,
    mine: range,
    columns: Mapping[str, np.ndarray],
    nearest_B: np.ndarray,
    bank: pa.Table,
    threshold: float,
) -> pa.Table:
    """Thumbnails of the most confident mistakes and of borderline images, of :data:`GALLERY_SCHEMA`.

    Args:
        source: the images.
        mine: positions of those B that were scored.
        columns: ``label``, ``predicted``, ``expert`` and ``knn`` of each, (B,).
        nearest_B: the row of the known image next to each.
        bank: the known images, ``id`` and ``label``.
        threshold: of the KNN score.
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
