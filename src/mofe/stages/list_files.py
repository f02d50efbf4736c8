"""Divides the files of a batch into shards."""

from itertools import pairwise

import pyarrow as pa
import pyarrow.parquet as pq

from mofe.artifacts.predictions import FileList
from mofe.data.listing import find_files
from mofe.data.place_lists import listed_places
from mofe.errors import MofeError
from mofe.storage import writing

FILES = "files.parquet"


def list_files(images: list[str], files: str, *, digest: str = "", shards: int = 8) -> list[int]:
    """List the files of a batch and divide them into shards of equal size, in order.

    Writes a JSON manifest, and one Parquet file with a column ``file`` and one row group per shard. A tar archive or a
    Parquet file counts as one file and is not divided.

    Args:
        images: files, folders, globs, tar archives, Parquet files; local paths or URIs; or .txt files that list such
            places, one per line.
        files: path or URI of the folder to write the list to.
        digest: digest of images and detector, made by fingerprint_batch. It is recorded, and when it changes,
            Kubeflow's cache runs this stage and the shards again.
        shards: number of shards; fewer if there are fewer files.

    Returns:
        The numbers of the shards.

    Raises:
        MofeError: there are no files, a file name is not UTF-8, or ``shards`` is invalid.
    """
    if shards < 1:
        raise MofeError(f"shards = {shards} must be at least 1")
    names = [str(file) for file in find_files(listed_places(images))]
    count = min(int(shards), len(names))
    bounds = [len(names) * shard // count for shard in range(count + 1)]
    schema = pa.schema({"file": pa.string()})
    table = pa.table({"file": _column(names)}, schema)
    with writing.staged(files) as folder:
        with writing.file(folder / FILES) as stream, pq.ParquetWriter(stream, schema) as parquet:
            for start, end in pairwise(bounds):
                parquet.write_table(table.slice(start, end - start), row_group_size=end - start)
        FileList(num_files=len(names), shards=count, digest=digest).write(folder)
    print(f"{len(names)} files in {count} shards")
    return list(range(count))


def _column(names: list[str]) -> pa.Array:
    try:
        return pa.array(names, pa.string())
    except UnicodeEncodeError as error:
        raise MofeError(f"the file name {error.object!r} is not UTF-8, which a table needs: rename the file") from error
