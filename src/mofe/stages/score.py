"""Scores the images of one evaluation set."""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from upath import UPath

from mofe.artifacts.image_set import ImageSet
from mofe.artifacts.image_shards import ImageShards
from mofe.artifacts.parts import TOGETHER, images_of
from mofe.artifacts.scores import ScoreInfo, ScorePart, ScoreTable, embedding_schema, score_schema, write_scores
from mofe.artifacts.tables import fixed_size_lists
from mofe.errors import MofeError
from mofe.inference.detector import SCORES, Detector, load_detector, scores_of, seen_by
from mofe.inference.embedding import EmbedOptions, embed_shards, group_batches
from mofe.report.thumbnails import gallery
from mofe.storage import writing
from mofe.tracking import journal

SAMPLE = 400
"""Number of images whose embeddings are stored, for the map of the feature space."""


def score(
    images: str,
    detector: str,
    scores: str,
    *,
    batch_size: int = 128,
    num_workers: int = 4,
    precision: str = "auto",
    shard: int = 0,
    shards: int = 1,
) -> None:
    """Score the images of an evaluation set with the detector.

    Writes one row per image (label, predicted class, expert, one column per score; higher is more in-distribution),
    thumbnails of the most confident mistakes, and a sample of embeddings, fine-tuned and pre-trained.

    Args:
        images: evaluation set written by prepare (path or URI).
        detector: detector written by index (path or URI).
        scores: path or URI of the folder to write the scores to.
        batch_size: images per batch.
        num_workers: processes that decode images.
        precision: auto (the detector's, because distances are compared), bf16 or fp32.
        shard: number of the shard to score; merge_scores joins the shards.
        shards: number of shards, see plan_shards; 1 leaves the images undivided.

    Raises:
        MofeError: a test set has classes that the model was not trained on, or a score is not finite.
    """
    source = ImageShards(images)
    name = source.info.name
    label = name if shards == 1 else f"{name} shard {shard:g}"
    with journal.stage_run("score", {"dataset": name}, label=label) as run:
        trained = load_detector(detector)
        mine = images_of(shard, shards, len(source), batch_size)
        precision = trained.info.precision if precision == "auto" else precision
        options = EmbedOptions(trained.config.backbone.preprocessing, batch_size, num_workers, precision)

        found = _score_images(trained, source, mine, options, label)
        _check_finite(found, source, mine)
        with writing.staged(scores) as folder:
            _write_tables(folder, found, trained, source, mine)
            _describe(found, trained, source, mine, whole=shards == 1).write(folder)
        means = {f"mean.{score}": float(found.columns[score].mean()) for score in SCORES}
        run.metrics({"images": len(mine), **means})


class _Found(NamedTuple):
    """Results for B images, and for the S of them that are in the sample."""

    scores: tuple[str, ...]
    columns: dict[str, np.ndarray]
    """``label``, ``predicted``, ``expert`` and every score, (B,)."""
    nearest_B: np.ndarray
    """Row of the nearest known image, in the bank."""
    right_B: np.ndarray | None
    """Whether the nearest text is that of the image's class; None without texts."""
    in_sample: np.ndarray
    """Indices of the S sampled images among the B."""
    before_SD: np.ndarray
    """Embeddings by the pre-trained backbone."""
    after_SD: np.ndarray
    """Embeddings by the model."""


def _score_images(trained: Detector, source: ImageShards, mine: range, options: EmbedOptions, label: str) -> _Found:
    """Embed and score the images at the positions ``mine``, batch by batch."""
    names = (*SCORES, *trained.info.baselines)
    sample = _sample(len(source), mine)
    label_of = _labels_in_model(source.info, trained.classes)
    baselines = trained.baselines if trained.info.baselines else None
    patches = trained.local if baselines else None
    text = baselines.text if baselines else None
    nothing = np.empty((0, trained.model.dim), np.float32)  # a shard may have no image of the sample
    columns: dict[str, list[np.ndarray]] = {name: [] for name in ("label", "predicted", "expert", *names)}
    before, after, nearest, right = [nothing], [nothing], [], []
    batches = embed_shards(
        [trained.model, *([trained.pretrained] if baselines else [])],
        source,
        options,
        label=f"score {label}",
        positions=np.array(mine),
        local=patches.latest if patches else None,
    )
    for positions_B, labels_B, (output, *others), local_B in group_batches(batches, TOGETHER):
        batch = scores_of(output, trained.knn, neighbours=1)
        seen = seen_by(output, others[0] if others else None, local_B)
        is_sampled_B = np.isin(positions_B, sample)
        values = batch.values | (baselines.score(seen) if baselines else {})
        values |= {"label": label_of[labels_B], "predicted": batch.predicted_B, "expert": batch.expert_B}
        for name, values_B in values.items():
            columns[name].append(values_B)
        nearest.append(batch.nearest_Bn[:, 0])
        after.append(seen.tuned_BD.numpy()[is_sampled_B])
        if baselines:
            before.append(seen.pretrained_BD.numpy()[is_sampled_B])
        if text:
            right.append(text.classify(seen.pretrained_BD) == label_of[labels_B])
    if not baselines and len(sample):
        before += _embed_one_by_one(trained, source, sample, options, label)
    return _Found(
        scores=names,
        columns={name: np.concatenate(parts) for name, parts in columns.items()},
        nearest_B=np.concatenate(nearest),
        right_B=np.concatenate(right) if text else None,
        in_sample=sample - mine.start,
        before_SD=np.concatenate(before),
        after_SD=np.concatenate(after),
    )


def _sample(num_images: int, mine: range) -> np.ndarray:
    """Positions of the sampled images that lie in ``mine``; the sample is taken from all images."""
    sample = np.unique(np.linspace(0, num_images - 1, SAMPLE).round().astype(int))
    return sample[(mine.start <= sample) & (sample < mine.stop)]


def _embed_one_by_one(
    trained: Detector, source: ImageShards, sample: np.ndarray, options: EmbedOptions, label: str
) -> list[np.ndarray]:
    """Embed the sample by the pre-trained backbone, one image per batch, because results must not depend on shards."""
    seen = embed_shards(
        [trained.pretrained],
        source,
        options._replace(batch_size=1),
        label=f"embed {label} as before",
        positions=sample,
    )
    return [output.embedding_BD.numpy() for _, _, (output,), _ in seen]


def _check_finite(found: _Found, source: ImageShards, mine: range) -> None:
    for name in found.scores:
        bad = np.flatnonzero(~np.isfinite(found.columns[name]))
        if bad.size:
            image = source.image(mine[bad[0]])[1]
            raise MofeError(
                f"{source.info.name}: the score {name} is not finite for {bad.size} images, the first is {image}: try "
                "precision=fp32, or train again with a lower learning_rate"
            )


def _write_tables(folder: UPath, found: _Found, trained: Detector, source: ImageShards, mine: range) -> None:
    """Write scores, gallery and the sample of embeddings."""
    rows = {"id": source.paths.slice(mine.start, len(mine)), **found.columns}
    with writing.file(folder / ScoreTable.TABLE) as file, write_scores(file, found.scores) as write:
        write(pa.table(rows, schema=score_schema(found.scores)))
    shown = gallery(source, mine, found.columns, found.nearest_B, trained.bank, trained.thresholds["knn"])
    with writing.file(folder / ScoreTable.GALLERY) as file:
        pq.write_table(shown, file)
    embeddings = {
        "label": found.columns["label"][found.in_sample],
        "expert": found.columns["expert"][found.in_sample],
        "before": fixed_size_lists(found.before_SD, pa.float16()),
        "after": fixed_size_lists(found.after_SD, pa.float16()),
    }
    with writing.file(folder / ScoreTable.EMBEDDINGS) as file:
        pq.write_table(pa.table(embeddings, schema=embedding_schema(trained.model.dim)), file)


def _describe(found: _Found, trained: Detector, source: ImageShards, mine: range, whole: bool) -> ScoreInfo:
    """Make the manifest of the scores: of all images if ``whole``, else of a part of them."""
    info = source.info
    parameters = dict(trained.info.parameters)
    if info.role == "test":
        parameters["test_data"] = info.source
        parameters["evaluation_images_per_class"] = info.parameters["images_per_class"]
    about = ScoreInfo(
        made_from={
            "images": info.identity,
            "detector": trained.info.identity,
            "partition": trained.config.made_from["partition"],
        },
        dataset=info.name,
        role=info.role,
        scores=found.scores,
        num_images=len(source),
        parameters=parameters,
    )
    right_B = found.right_B if info.role == "test" else None
    if whole:
        return about.model_copy(update={"zero_shot_accuracy": None if right_B is None else float(right_B.mean())})
    return ScorePart(
        **dict(about),
        start=mine.start,
        stop=mine.stop,
        threshold=trained.thresholds["knn"],
        zero_shot_right=None if right_B is None else int(right_B.sum()),
    )


def _labels_in_model(info: ImageSet, classes: tuple[str, ...]) -> np.ndarray:
    """The model's class index for each label of the set, −1 where it has none; the last item is for "no label"."""
    index = {name: c for c, name in enumerate(classes)}
    labels = [index.get(name, -1) for name in info.classes] if info.role == "test" else [-1] * len(info.classes)
    unknown = [name for name, label in zip(info.classes, labels, strict=True) if label < 0]
    if info.role == "test" and unknown:
        raise MofeError(
            f"the test set {info.source} has {len(unknown)} classes that the model was not trained on, among them "
            f"{', '.join(unknown[:5])}: name its classes as the training set does, or give it as an OOD set"
        )
    return np.array([*labels, -1], np.int32)
