"""Artifacts of the batch pipeline: the list of files to predict on, and the predictions."""

from typing import ClassVar

from mofe.artifacts.manifest import Manifest


class FileList(Manifest):
    """``files.json`` beside ``files.parquet``, which lists the files of a batch, one row group per shard."""

    file_name: ClassVar[str] = "files.json"
    what: ClassVar[str] = "list of files"
    num_files: int
    shards: int
    digest: str
    """Digest of the images and the detector, from fingerprint_batch."""


class PredictionSet(Manifest):
    """``predictions.json`` of a folder with predictions on many images.

    The folder also holds two Parquet data sets, ``predictions`` and ``unreadable``, with one file per shard. Their
    columns are ``SCHEMA`` and ``UNREADABLE_SCHEMA`` of :mod:`mofe.inference.predictions`.
    """

    file_name: ClassVar[str] = "predictions.json"
    what: ClassVar[str] = "set of predictions"
    shards: tuple[int, ...]
    """Shards that the folder holds, in the order of its files."""
    detector: str
    digest: str
    """Digest of the images and the detector, from fingerprint_batch."""
    threshold: str
    score: str
    known: dict[str, int]
    """Number of known images by predicted class."""
    unknown: int
    unreadable: int
