"""Which images of a batch each shard holds."""

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
    """List the files of a batch and divide them into shards of as many files each, in order.

    Writes one Parquet file with a column ``file``, a row group a shard, and what it holds as JSON. A tar archive or
    Parquet file counts as one file and is not divided.

    Args:
        images: files, folders, globs, tar archives, Parquet files; local paths or URIs; or .txt files that list such
            places, one a line.
        files: where to write the list (path or URI of a folder).
        digest: of images and detector, made by fingerprint_batch. It is recorded, and it decides caching, of the
            shards too.
        shards: how many; fewer if there are not as many files.

    Returns:
        The numbers of the shards.
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
        raise MofeError(f"the name of {error.object!r} is not UTF-8, as a table needs it: rename the file") from error
