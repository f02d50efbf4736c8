"""Scores of one evaluation set."""

from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mofe.artifacts.image_set import ImageSet
from mofe.artifacts.image_shards import ImageShards
from mofe.artifacts.parts import TOGETHER, images_of
from mofe.artifacts.scores import ScoreInfo, ScorePart, ScoreTable, embedding_schema, score_schema, write_scores
from mofe.artifacts.tables import fixed_size_lists
from mofe.errors import MofeError
from mofe.inference.detector import SCORES, load_detector, scores_of
from mofe.inference.embedding import embed_shards, together
from mofe.report.thumbnails import gallery
from mofe.storage import writing
from mofe.tracking import journal

SAMPLE = 400
"""Images whose embeddings are kept, for the map of the feature space."""


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

    Writes one row an image (label, predicted class, expert, a column a score; higher is more in-distribution),
    thumbnails of the most confident mistakes, and a sample of embeddings, fine-tuned and pre-trained.

    Args:
        images: evaluation set written by prepare (path or URI).
        detector: detector written by index (path or URI).
        scores: where to write the scores (path or URI of a folder).
        batch_size: images at once.
        num_workers: processes that decode images.
        precision: auto (bf16 where the hardware has it), bf16 or fp32.
        shard: which of several shards of the images to score; merge_scores joins what was made of each.
        shards: how many there are, see plan_shards; 1 leaves the images undivided.
    """
    source = ImageShards(images)
    info = source.info
    label = info.name if shards == 1 else f"{info.name} shard {shard:g}"
    with journal.stage_run("score", {"dataset": info.name}, label=label) as run:
        trained = load_detector(detector)
        label_of = _labels_in_model(info, trained.classes)
        mine = images_of(shard, shards, len(source), batch_size)
        sample = np.unique(np.linspace(0, len(source) - 1, SAMPLE).round().astype(int))
        sample = sample[(mine.start <= sample) & (sample < mine.stop)]
        embed = partial(
            embed_shards,
            shards=source,
            preprocessing=trained.config.backbone.preprocessing,
            batch_size=batch_size,
            num_workers=num_workers,
            precision=precision,
        )
        names = (*SCORES, *trained.info.baselines)
        columns: dict[str, list[np.ndarray]] = {name: [] for name in ("label", "predicted", "expert", *names)}
        nothing = np.empty((0, trained.model.dim), np.float32)  # a shard may have no image of the sample
        before, after, nearest, right = [nothing], [nothing], [], []
        compared = [trained.pretrained] if trained.info.baselines else []
        text, patches = (trained.baselines.text, trained.local) if compared else (None, None)
        local = patches.latest if patches else None
        seen = embed([trained.model, *compared], label=f"score {label}", positions=np.array(mine), local=local)
        for positions_B, labels_B, (output, *untouched), local_B in together(seen, TOGETHER):
            batch = scores_of(output, trained.knn, neighbours=1)
            nearest.append(batch.nearest_Bn[:, 0])
            columns["label"].append(label_of[labels_B])
            columns["predicted"].append(batch.predicted_B)
            columns["expert"].append(batch.expert_B)
            values = dict(batch.values)
            sampled_B = np.isin(positions_B, sample)
            after.append(output.embedding_BD.numpy()[sampled_B])
            if untouched:
                z_BD = untouched[0].embedding_BD
                before.append(z_BD.numpy()[sampled_B])
                values |= trained.baselines.score_tuned(output.embedding_BD, batch.expert_B)
                values |= trained.baselines.score_pretrained(z_BD)
                if text:
                    values |= text.score(z_BD, local_B, output.logits[:, :-1])
                    right.append(text.classify(z_BD) == label_of[labels_B])
            for name, values_B in values.items():
                columns[name].append(values_B)
        if not compared and len(sample):  # one by one, for batches of a sample would depend on how the set is divided
            seen = embed([trained.pretrained], label=f"embed {label} as before", positions=sample, batch_size=1)
            before += [output.embedding_BD.numpy() for _, _, (output,), _ in seen]
        schema = score_schema(names)
        arrays = {name: np.concatenate(parts) for name, parts in columns.items()}
        for name in names:
            bad = np.flatnonzero(~np.isfinite(arrays[name]))
            if bad.size:
                image = source.image(mine[bad[0]])[1]
                raise MofeError(f"{info.name}: the score {name} of {image} is not finite, and of {bad.size - 1} others")
        table = pa.table({"id": source.paths.slice(mine.start, len(mine)), **arrays}, schema=schema)
        with writing.staged(scores) as folder:
            with writing.file(folder / ScoreTable.TABLE) as file, write_scores(file, names) as write:
                write(table)
            shown = gallery(source, mine, arrays, np.concatenate(nearest), trained.bank, trained.thresholds["knn"])
            with writing.file(folder / ScoreTable.GALLERY) as file:
                pq.write_table(shown, file)
            with writing.file(folder / ScoreTable.EMBEDDINGS) as file:
                embeddings = {
                    "label": arrays["label"][sample - mine.start],
                    "expert": arrays["expert"][sample - mine.start],
                    "before": fixed_size_lists(np.concatenate(before), pa.float16()),
                    "after": fixed_size_lists(np.concatenate(after), pa.float16()),
                }
                pq.write_table(pa.table(embeddings, schema=embedding_schema(trained.pretrained.dim)), file)
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
                scores=names,
                num_images=len(source),
                parameters=parameters,
            )
            right_N = np.concatenate(right) if text and info.role == "test" else None
            if shards == 1:
                accuracy = None if right_N is None else float(right_N.mean())
                about.model_copy(update={"zero_shot_accuracy": accuracy}).write(folder)
            else:
                ScorePart(
                    **dict(about),
                    start=mine.start,
                    stop=mine.stop,
                    threshold=trained.thresholds["knn"],
                    zero_shot_right=None if right_N is None else int(right_N.sum()),
                ).write(folder)
        run.metrics({"images": len(mine), **{f"mean.{name}": float(arrays[name].mean()) for name in SCORES}})


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
