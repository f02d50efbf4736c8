"""Scores of one evaluation set."""

import io
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mofe import storage, tracking
from mofe.artifacts import (
    GALLERY_SCHEMA,
    ImageSet,
    ImageShards,
    ScoreInfo,
    embedding_schema,
    fixed_size_lists,
    score_schema,
)
from mofe.data.images import decode
from mofe.detection.embedding import embed_shards
from mofe.detector import SCORES, Detector, load_detector, scores_of
from mofe.errors import MofeError

GALLERY_SIZE = 12
SAMPLE = 400
"""Images whose embeddings are kept, for the map of the feature space."""
THUMBNAIL = 112
"""Longest side in pixels."""


def score(
    images: str, detector: str, scores: str, *, batch_size: int = 128, num_workers: int = 4, precision: str = "auto"
) -> None:
    """Score the images of an evaluation set with the detector.

    Writes one row an image (label, predicted class, expert, a column a score; higher is more in-distribution),
    thumbnails of the most confident mistakes, and a sample of embeddings, fine-tuned and pre-trained.

    Args:
        images: evaluation set written by prepare (path or URI).
        detector: detector written by index (path or URI).
        scores: where to write the scores (path or URI of a folder).
        batch_size: images at once.
        num_workers: processes that decode images.
        precision: auto (bf16 where the hardware has it), bf16 or fp32.
    """
    shards = ImageShards(images)
    info = shards.info
    with tracking.stage_run("score", {"dataset": info.name}, label=info.name) as run:
        judge = load_detector(detector)
        label_of = _labels_in_model(info, judge.classes)
        sample = np.unique(np.linspace(0, len(shards) - 1, SAMPLE).round().astype(int))
        embed = partial(
            embed_shards,
            shards=shards,
            preprocessing=judge.config.backbone.preprocessing,
            batch_size=batch_size,
            num_workers=num_workers,
            precision=precision,
        )
        names = (*SCORES, *judge.info.compared)
        columns: dict[str, list[np.ndarray]] = {name: [] for name in ("label", "predicted", "expert", *names)}
        after, nearest, logits = [], [], []
        for positions_B, labels_B, output in embed(judge.model, label=f"score {info.name}"):
            batch = scores_of(output, judge.knn, neighbours=1)
            nearest.append(batch.nearest_Bn[:, 0])
            columns["label"].append(label_of[labels_B])
            columns["predicted"].append(batch.predicted_B)
            columns["expert"].append(batch.expert_B)
            values = batch.values
            if judge.info.compared:
                values = values | judge.comparison.score_tuned(output.embedding_BD, batch.expert_B)
                if judge.comparison.text:
                    logits.append(output.logits[:, :-1])
            for name, values_B in values.items():
                columns[name].append(values_B)
            after.append(output.embedding_BD.numpy()[np.isin(positions_B, sample)])
        before, right = [], []
        text, local = (judge.comparison.text, judge.local) if judge.info.compared else (None, None)
        everything = None if judge.info.compared else sample
        seen = embed(judge.pretrained, label=f"embed {info.name} as before", positions=everything)
        for number, (positions_B, labels_B, output) in enumerate(seen):
            before.append(output.embedding_BD.numpy()[np.isin(positions_B, sample)])
            if judge.info.compared:
                for name, values_B in judge.comparison.score_pretrained(output.embedding_BD).items():
                    columns[name].append(values_B)
            if text and local:
                for name, values_B in text.score(output.embedding_BD, local.latest_B, logits[number]).items():
                    columns[name].append(values_B)
                right.append(text.classify(output.embedding_BD) == label_of[labels_B])
        schema = score_schema(names)
        arrays = {name: np.concatenate(parts) for name, parts in columns.items()}
        for name in names:
            bad = np.flatnonzero(~np.isfinite(arrays[name]))
            if bad.size:
                image = shards.image(int(bad[0]))[1]
                raise MofeError(f"{info.name}: the score {name} of {image} is not finite, and of {bad.size - 1} others")
        table = pa.table({"id": shards.paths, **arrays}, schema=schema)
        with storage.staged(scores) as folder:
            with storage.writing(folder / "scores.parquet") as file:
                pq.write_table(table, file)
            with storage.writing(folder / "gallery.parquet") as file:
                pq.write_table(_gallery(shards, info.role, arrays, np.concatenate(nearest), judge), file)
            with storage.writing(folder / "embeddings.parquet") as file:
                embeddings = {
                    "label": arrays["label"][sample],
                    "expert": arrays["expert"][sample],
                    "before": fixed_size_lists(np.concatenate(before), pa.float16()),
                    "after": fixed_size_lists(np.concatenate(after), pa.float16()),
                }
                pq.write_table(pa.table(embeddings, schema=embedding_schema(judge.pretrained.dim)), file)
            parameters = dict(judge.info.parameters)
            if info.role == "test":
                parameters["test_data"] = info.source
                parameters["evaluation_images_per_class"] = info.parameters["images_per_class"]
            ScoreInfo(
                made_from={
                    "images": info.identity,
                    "detector": judge.info.identity,
                    "partition": judge.config.made_from["partition"],
                },
                dataset=info.name,
                role=info.role,
                scores=names,
                num_images=len(shards),
                parameters=parameters,
                zero_shot_accuracy=float(np.concatenate(right).mean()) if text and info.role == "test" else None,
            ).write(folder)
        run.metrics({"images": len(shards), **{f"mean.{name}": float(arrays[name].mean()) for name in SCORES}})


def _labels_in_model(info: ImageSet, classes: tuple[str, ...]) -> np.ndarray:
    """For each label of the set (and, last, for "no label") the model's index of that class, −1 where it has none."""
    index = {name: c for c, name in enumerate(classes)}
    labels = [index.get(name, -1) for name in info.classes] if info.role == "test" else [-1] * len(info.classes)
    unknown = [name for name, label in zip(info.classes, labels, strict=True) if label < 0]
    if info.role == "test" and unknown:
        raise MofeError(
            f"the test set {info.source} has {len(unknown)} classes that the model was not trained on, among them "
            f"{', '.join(unknown[:5])}: name its classes as the training set does, or give it as an OOD set"
        )
    return np.array([*labels, -1], np.int32)


def _gallery(
    shards: ImageShards, role: str, columns: dict[str, np.ndarray], nearest: np.ndarray, judge: Detector
) -> pa.Table:
    """Thumbnails of the most confident mistakes and of borderline images: see :data:`mofe.artifacts.GALLERY_SCHEMA`."""
    by_score = np.argsort(columns["knn"], kind="stable")
    wrong = columns["predicted"] != columns["label"]
    borderline = np.argsort(np.abs(columns["knn"] - judge.thresholds["knn"]), kind="stable")
    if role == "ood":
        chosen = {"accepted": by_score[::-1][:GALLERY_SIZE]}
    else:
        misclassified = by_score[::-1][wrong[by_score[::-1]]]
        chosen = {"rejected": by_score[:GALLERY_SIZE], "misclassified": misclassified[:GALLERY_SIZE]}
    rows = []
    for kind, positions in {**chosen, "borderline": borderline[:GALLERY_SIZE]}.items():
        for position in positions.tolist():
            content, path, _ = shards.image(position)
            row = {name: columns[name][position].item() for name in ("label", "predicted", "expert", "knn")}
            row |= {"nearest": judge.bank["id"][nearest[position]].as_py()}
            row |= {"nearest_label": judge.bank["label"][nearest[position]].as_py()}
            rows.append({"id": path, "kind": kind, "thumbnail": _thumbnail(content), **row})
    return pa.Table.from_pylist(rows, schema=GALLERY_SCHEMA)


def _thumbnail(content: bytes) -> bytes:
    image = decode(content)
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    encoded = io.BytesIO()
    image.save(encoded, "JPEG", quality=85)
    return encoded.getvalue()
