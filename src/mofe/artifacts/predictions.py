"""What the batch pipeline hands on: the files that it asks about, and the predictions on them."""

from typing import ClassVar

from mofe.artifacts.manifest import Manifest


class FileList(Manifest):
    """``files.json`` of the folder that lists the files of a batch: ``files.parquet``, a row group a shard."""

    file_name: ClassVar[str] = "files.json"
    what: ClassVar[str] = "list of files"
    num_files: int
    shards: int
    digest: str
    """Of the images and the detector, as fingerprint_batch found them."""


class PredictionSet(Manifest):
    """``predictions.json`` of a folder with predictions on many images.

    Beside it lie two Parquet data sets, a file a shard: ``predictions`` and ``unreadable``. Their columns are
    ``SCHEMA`` and ``UNREADABLE_SCHEMA`` of :mod:`mofe.inference.predictions`.
    """

    file_name: ClassVar[str] = "predictions.json"
    what: ClassVar[str] = "set of predictions"
    shards: tuple[int, ...]
    """Those that it holds, in the order of its files."""
    detector: str
    digest: str
    """Of the images and the detector, as fingerprint_batch found them."""
    threshold: str
    score: str
    known: dict[str, int]
    """Images by class, of those that are known."""
    unknown: int
    unreadable: int
