"""Joins the features of all shards and computes the prototypes of their classes."""

from mofe.artifacts.features import FeaturePart, Features, write_features
from mofe.artifacts.parts import in_order
from mofe.partitioning.prototypes import ClassSums
from mofe.storage import locations, writing
from mofe.tracking import journal


def merge_features(parts: list[str], features: str) -> None:
    """Join the features that extract wrote for each shard. The result is the same, bit by bit, as without shards.

    Args:
        parts: parts of a feature set written by extract (paths or URIs), in any order.
        features: path or URI of the folder to write the features to.

    Raises:
        MofeError: a part is missing, damaged, or of another set.
    """
    found = in_order(FeaturePart, parts)
    whole = found[0][0].whole
    with journal.stage_run("merge_features", {"parts": len(found)}) as run:
        sums = ClassSums(len(whole.classes), whole.dim)
        with writing.staged(features) as folder:
            with writing.file(folder / Features.TABLE) as file, write_features(file, whole.dim) as write:
                for info, place in found:
                    info.check(place)
                    with locations.open_parquet(place / Features.TABLE) as table:
                        for group in range(table.num_row_groups):
                            write(table.read_row_group(group))
                    sums.join(ClassSums.read(place))
            sums.write_prototypes(folder, whole.classes, parts[0])
            whole.write(folder)
        run.metrics({"images": whole.num_images, "classes": len(whole.classes), "dim": whole.dim})
