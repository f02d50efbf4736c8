"""Extracts features of the training images with the pre-trained backbone, and the prototype of each class."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from mofe.artifacts.features import FeatureInfo, FeaturePart, Features, feature_schema, write_features
from mofe.artifacts.image_shards import ImageShards
from mofe.artifacts.parts import images_of
from mofe.artifacts.tables import fixed_size_lists, vectors
from mofe.device import one_thread, resolve_precision
from mofe.inference.embedding import EmbedOptions, create_pretrained, embed_shards
from mofe.models.backbone import describe_backbone
from mofe.models.mofe import MoFE
from mofe.partitioning.prototypes import ClassSums
from mofe.storage import writing
from mofe.tracking import journal


def extract(
    images: str,
    features: str,
    *,
    backbone: str = "vit_base_patch14_dinov2.lvd142m",
    backbone_args: dict[str, Any] | None = None,
    weights: str = "",
    weights_digest: str = "",
    mofe_depth: int = 1,
    batch_size: int = 128,
    num_workers: int = 4,
    precision: str = "auto",
    shard: int = 0,
    shards: int = 1,
) -> None:
    """Extract features of training images, and class prototypes, with the pre-trained backbone.

    Of each image it writes the class embedding that enters the MoFE block ("trunk") and the final one ("embedding"),
    in float16. Of each class it writes the mean of the trunk embeddings: the prototype that partition groups. It makes
    one pass without augmentation, with the backbone's own preprocessing.

    Args:
        images: image set written by prepare (path or URI).
        features: path or URI of the folder to write the features to.
        backbone: name of a vision transformer of timm, or "hf-hub:…".
        backbone_args: further arguments of timm.create_model, for example {"img_size": 224}.
        weights: path or URI of a safetensors file; "" takes timm's pre-trained weights, "random" takes none.
        weights_digest: digest of that file, made by fingerprint. It is recorded.
        mofe_depth: number of last blocks that become experts (M).
        batch_size: images per batch.
        num_workers: processes that decode images.
        precision: auto (bf16 where the hardware has it), bf16 or fp32.
        shard: number of the shard to extract from; merge_features joins the shards.
        shards: number of shards, see plan_shards; 1 leaves the images undivided.
    """
    label = "" if shards == 1 else f"shard {shard:g}"
    with journal.stage_run("extract", {"backbone": backbone, "mofe_depth": mofe_depth}, label=label) as run:
        source = ImageShards(images)
        mine = images_of(shard, shards, len(source), batch_size)
        spec = describe_backbone(
            backbone, _restore_whole_numbers(backbone_args or {}), weights, weights_digest, mofe_depth
        )
        model = create_pretrained(spec, source.info.classes)
        sums = ClassSums(len(source.info.classes), model.dim)
        precision = resolve_precision(precision)
        tables = _embed(model, source, EmbedOptions(spec.preprocessing, batch_size, num_workers, precision), mine)
        about = FeatureInfo(
            backbone=spec,
            dim=model.dim,
            num_images=len(source),
            classes=source.info.classes,
            synsets=source.info.synsets,
            precision=precision,
            made_from={"images": source.info.identity},
        )
        with writing.staged(features) as folder:
            with writing.file(folder / Features.TABLE) as file, write_features(file, model.dim) as write:
                for table in tables:
                    write(table)
                    with one_thread():  # sums of the stored float16 values are exact
                        sums.add(vectors(table["trunk"]), table["label"].to_numpy())
            if shards == 1:
                sums.write_prototypes(folder, about.classes, images)
                about.write(folder)
            else:
                sums.write(folder)
                FeaturePart(**dict(about), start=mine.start, stop=mine.stop).write(folder)
        run.metrics({"images": len(mine), "classes": len(sums.count_C), "dim": model.dim})


def _embed(model: MoFE, source: ImageShards, options: EmbedOptions, mine: range) -> Iterator[pa.Table]:
    """Yield the features of the images at the positions ``mine``, batch by batch, in the stored form."""
    schema = feature_schema(model.dim)
    for positions_B, labels_B, (output,), _ in embed_shards(
        [model], source, options, label="extract", positions=np.array(mine)
    ):
        columns = {
            "id": source.paths.take(positions_B),
            "label": pa.array(labels_B, pa.int32()),
            "trunk": fixed_size_lists(output.trunk_BD.numpy(), pa.float16()),
            "embedding": fixed_size_lists(output.embedding_BD.numpy(), pa.float16()),
        }
        yield pa.table(columns, schema=schema)


def _restore_whole_numbers(value: Any) -> Any:
    """Restore whole numbers and sort keys, because Kubeflow turns numbers into floats and reorders keys."""
    if isinstance(value, dict):
        return {key: _restore_whole_numbers(item) for key, item in sorted(value.items())}
    if isinstance(value, list):
        return [_restore_whole_numbers(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
