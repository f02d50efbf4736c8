"""Vectors and row groups in Parquet tables."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mofe.errors import MofeError


@contextmanager
def in_row_groups(parquet: pq.ParquetWriter, rows: int) -> Iterator[Callable[[pa.Table], None]]:
    """Yield a function that appends tables of any size; the row groups have ``rows`` rows whatever the sizes."""
    waiting: list[pa.Table] = []

    def write(table: pa.Table) -> None:
        waiting.append(table)
        while sum(map(len, waiting)) >= rows:
            together = pa.concat_tables(waiting)
            parquet.write_table(together.slice(0, rows).combine_chunks())
            waiting[:] = [together.slice(rows)]

    yield write
    if sum(map(len, waiting)):
        parquet.write_table(pa.concat_tables(waiting).combine_chunks())


def vectors(column: pa.ChunkedArray) -> np.ndarray:
    """The N × D numpy array of a fixed-size-list column."""
    array = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()  # it copies even a single chunk
    return np.asarray(array.flatten().to_numpy(zero_copy_only=False)).reshape(len(array), column.type.list_size)


def fixed_size_lists(values_ND: np.ndarray, dtype: pa.DataType) -> pa.FixedSizeListArray:
    """The fixed-size-list column of an N × D numpy array.

    Raises:
        MofeError: a value is not finite, or is too large for ``dtype``.
    """
    with np.errstate(over="ignore"):
        flat_M = np.ascontiguousarray(values_ND).reshape(-1).astype(f"f{dtype.bit_width // 8}")
    bad = np.flatnonzero(~np.isfinite(flat_M))
    if bad.size:
        row, column = divmod(int(bad[0]), values_ND.shape[1])
        raise MofeError(f"row {row}, column {column}: {values_ND[row, column]:g} does not fit into {dtype}")
    flat = pa.array(flat_M, dtype)
    return pa.FixedSizeListArray.from_arrays(flat, values_ND.shape[1])
