"""Joins the scores of all shards of an evaluation set."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mofe.artifacts.parts import in_order
from mofe.artifacts.scores import GALLERY_SCHEMA, ScorePart, ScoreTable, embedding_schema, write_scores
from mofe.report.gallery import chosen
from mofe.storage import locations, writing
from mofe.tracking import journal

SEEN = ("label", "predicted", "knn")
"""Columns that decide which images the gallery shows. All rows of these columns are held in memory."""


def merge_scores(parts: list[str], scores: str) -> None:
    """Join the scores that score wrote for each shard. The result is the same, bit by bit, as without shards.

    Args:
        parts: parts of a score table written by score (paths or URIs), in any order.
        scores: path or URI of the folder to write the scores to.

    Raises:
        MofeError: a part is missing, damaged, or of another set.
    """
    found = in_order(ScorePart, parts)
    first = found[0][0]
    whole = first.whole
    with journal.stage_run("merge_scores", {"parts": len(found)}, label=whole.dataset) as run:
        tables: list[pa.Table] = []
        embeddings: list[pa.Table] = []
        thumbnails: dict[tuple[str, int], dict[str, Any]] = {}
        with writing.staged(scores) as folder:
            with writing.file(folder / ScoreTable.TABLE) as file, write_scores(file, whole.scores) as write:
                for info, place in found:
                    info.check(place)
                    seen = []
                    with locations.open_parquet(place / ScoreTable.TABLE) as table:
                        for group in range(table.num_row_groups):
                            rows = table.read_row_group(group)
                            write(rows)
                            seen.append(rows.select(SEEN))
                    tables.append(pa.concat_tables(seen))
                    shown = locations.read_parquet(place / ScoreTable.GALLERY).to_pylist()
                    positions = _positions(tables[-1], first, info.start)
                    thumbnails |= dict(zip(positions, shown, strict=True))
                    embeddings.append(locations.read_parquet(place / ScoreTable.EMBEDDINGS))
            gallery = [thumbnails[position] for position in _positions(pa.concat_tables(tables), first)]
            with writing.file(folder / ScoreTable.GALLERY) as file:
                pq.write_table(pa.Table.from_pylist(gallery, schema=GALLERY_SCHEMA), file)
            with writing.file(folder / ScoreTable.EMBEDDINGS) as file:
                sample = pa.concat_tables(embeddings)
                dim = sample.schema.field("before").type.list_size
                pq.write_table(sample.cast(embedding_schema(dim)).combine_chunks(), file)
            if first.zero_shot_right is not None:
                right = sum(info.zero_shot_right or 0 for info, _ in found)
                whole = whole.model_copy(update={"zero_shot_accuracy": right / whole.num_images})
            whole.write(folder)
        run.metrics({"images": whole.num_images})


def _positions(table: pa.Table, info: ScorePart, start: int = 0) -> list[tuple[str, int]]:
    """(kind, position in the set) of each image that a gallery of these rows shows, in the order of the gallery.

    ``start`` is the position of the first row in the set.
    """
    columns: dict[str, np.ndarray] = {name: table[name].to_numpy() for name in SEEN}
    kinds = chosen(info.role, columns, info.threshold)
    return [(kind, start + place) for kind, places in kinds.items() for place in places]
