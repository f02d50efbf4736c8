"""Small things that many tests make: a tiny backbone, a partition, images, a training, scores."""

import io
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from mofe.artifacts.image_set import ImageSet, Role, write_image_shards
from mofe.artifacts.model import Epoch, History
from mofe.artifacts.partition import Partition
from mofe.artifacts.scores import GALLERY_SCHEMA, ScoreInfo, embedding_schema, score_schema
from mofe.artifacts.tables import fixed_size_lists
from mofe.cli.main import main
from mofe.runners.local import RunResult
from mofe.stages.evaluate import evaluate
from mofe.stages.finetune import finetune
from mofe.storage import writing

TINY = {"img_size": 16, "patch_size": 8, "depth": 3, "embed_dim": 24, "num_heads": 2}
"""``timm.create_model("vit_tiny_patch16_224", **TINY)``: 5 tokens, 3 blocks, 24 features."""
SCORED = ("knn", "msp")


def make_partition(expert_of_class: Sequence[int]) -> Partition:
    """A partition that nobody computed."""
    names = tuple(f"class{c}" for c in range(len(expert_of_class)))
    return Partition(
        num_experts=max(expert_of_class) + 1,
        strategy="by hand",
        classes=names,
        synsets=(None,) * len(names),
        names=names,
        expert_of_class=tuple(expert_of_class),
        seeds=(),
        centers=(),
        inertia=0.0,
        iterations=0,
    )


def noise(size: int) -> bytes:
    return np.random.default_rng(0).bytes(size)


def striped(label: int, rng: np.random.Generator, size: int = 16) -> bytes:
    """A PNG whose class shows: stripes of a frequency and colour of its own, with noise."""
    wave = 0.5 + 0.5 * np.sin(np.arange(size) * (label + 1) * np.pi / 8)
    pixels = np.stack([np.tile(wave, (size, 1)) * w for w in np.random.default_rng(label).uniform(0.3, 1, 3)], axis=-1)
    noisy = (255 * np.clip(pixels + rng.normal(0, 0.08, pixels.shape), 0, 1)).astype(np.uint8)
    content = io.BytesIO()
    Image.fromarray(noisy).save(content, "PNG")
    return content.getvalue()


def write_images(
    folder: Path, name: str = "train", role: Role = "train", classes: Sequence[int] = (0, 1, 2, 3), per_class: int = 12
) -> str:
    """An image set of striped images in the folder; its path."""
    rng = np.random.default_rng(sum(name.encode()))
    names = tuple(f"class{c}" for c in classes)
    uri = str(folder / name)
    with writing.staged(uri) as place:
        with write_image_shards(place, names, rows_per_group=8, groups_per_shard=2) as writer:
            for i in rng.permutation(len(classes) * per_class).tolist():
                label = i % len(classes)
                writer.add(striped(classes[label], rng), f"{name}/{i}.png", label)
        ImageSet(
            name=name,
            role=role,
            source="made by a test",
            digest=name,
            classes=names,
            synsets=(None,) * len(names),
            counts=tuple(writer.counts),
            num_listed=writer.num_images,
            num_images=writer.num_images,
            num_rejected=0,
            num_passed_over=0,
            rejected=(),
            passed_over=(),
            notes=(),
            parameters={"images_per_class": 0, "max_rejected": 0.01, "synsets": ""},
        ).write(place)
    return uri


def artifact_paths(folder: Path, name: str = "run") -> SimpleNamespace:
    """Where the artifacts of a small training lie."""
    above = {kind: str(folder / kind) for kind in ("features", "partition")}
    own = {kind: str(folder / name / kind) for kind in ("model", "history", "detector")}
    return SimpleNamespace(images=str(folder / "train"), **above, **own)


def train_small(
    folder: Path, name: str = "run", clusters: Sequence[int] = (0, 1, 0, 1), **parameters: Any
) -> SimpleNamespace:
    """Fine-tune on the images and features in the folder, the classes partitioned by hand; paths of all artifacts."""
    paths = artifact_paths(folder, name)
    with writing.staged(paths.partition) as place:
        make_partition(clusters).write(place)
    small = {
        "epochs": 2, "probe_epochs": 20, "probe_learning_rate": 0.01, "batch_size": 16, "micro_batch_size": 16,
        "learning_rate": 1e-3, "warmup_epochs": 0.5, "augmentation": "none", "num_workers": 0,
    }  # fmt: skip
    finetune(paths.images, paths.features, paths.partition, paths.model, paths.history, **{**small, **parameters})
    return paths


def write_scores(folder: Path, name: str, role: str, shift: float, names: tuple[str, ...] = SCORED) -> str:
    """The scores of a set of 300 images, as score writes them, higher by ``shift``; the path."""
    rng = np.random.default_rng(len(name))
    n = 300
    labels = rng.integers(0, 3, n) if role == "test" else np.full(n, -1)
    predicted = np.where(rng.random(n) < 0.8, labels, 0) if role == "test" else rng.integers(0, 3, n)
    columns = {
        "id": [f"{name}/{i}" for i in range(n)],
        "label": labels,
        "predicted": predicted,
        "expert": predicted % 2,
    }
    columns |= {score: rng.normal(shift, 1, n) for score in names}
    Image.new("RGB", (40, 30)).save(jpeg := io.BytesIO(), "JPEG")
    mistake = {
        "id": "<script>alert(1)</script>",
        "kind": "accepted",
        "nearest": "train/1.png",
        "nearest_label": 2,
        "thumbnail": jpeg.getvalue(),
        "label": -1,
        "predicted": 1,
        "expert": 1,
        "knn": 0.1,
    }
    vectors = fixed_size_lists(rng.normal(size=(40, 6)), pa.float16())
    embeddings = {"label": labels[:40], "expert": columns["expert"][:40], "before": vectors, "after": vectors}
    tables = {
        "scores": pa.table(columns, schema=score_schema(names)),
        "gallery": pa.Table.from_pylist([mistake], schema=GALLERY_SCHEMA),
        "embeddings": pa.table(embeddings, schema=embedding_schema(6)),
    }
    with writing.staged(folder / name) as place:
        for kind, table in tables.items():
            with writing.file(place / f"{kind}.parquet") as file:
                pq.write_table(table, file)
        parameters = {"train_data": "<photographs>"}
        info = ScoreInfo(dataset=name, role=role, scores=names, num_images=n, parameters=parameters)  # type: ignore[arg-type]
        info.write(place)
    return str(folder / name)


def write_report(folder: Path) -> Path:
    """A report with everything that one can hold."""
    names = (*SCORED, *(f"{space}.vim" for space in ("pretrained", "tuned", "expert")))
    partition, course = make_partition([0, 1, 0]), range(4)
    epochs = [
        Epoch(epoch=e, learning_rate=0.1, layer_rates={"stem": 0.01, "router and heads": 0.1} if e else {}, loss=1.0,
              route_loss=0.4, expert_loss=0.6, regulariser=0.0, validation_accuracy=0.5, router_accuracy=0.9,
              class_accuracy=(0.1 * e, 0.5, 0.9), sigma=(0.9, 0.5, 0.2), images_per_second=9.0)
        for e in course
    ]  # fmt: skip
    for name, artifact in (("partition", partition), ("history", History(epochs=tuple(epochs)))):
        with writing.staged(folder / name) as place:
            artifact.write(place)
    scores = [write_scores(folder, "id-test", "test", 2, names), write_scores(folder, "near", "ood", 1, names)]
    evaluate(
        scores, str(folder / "partition"), str(folder / "history"), metrics=str(folder / "metrics"),
        roc=str(folder / "roc"), report=str(folder / "report.html"),
    )  # fmt: skip
    return folder / "report.html"


def command_line(*arguments: str) -> SimpleNamespace:
    """What ``mofe ARGUMENTS`` does, in this process: ``code``, ``out`` (bytes), ``err``."""
    out, err, code = io.TextIOWrapper(io.BytesIO()), io.StringIO(), 0
    with patch.object(sys, "argv", ["mofe", *arguments]), redirect_stdout(out), redirect_stderr(err):
        try:
            main()
        except SystemExit as end:  # as the interpreter treats it
            if isinstance(end.code, str):
                print(end.code, file=err)
            code = 1 if isinstance(end.code, str) else end.code or 0
        out.flush()
    return SimpleNamespace(code=code, out=out.buffer.getvalue(), err=err.getvalue())  # type: ignore[attr-defined]


def executed(result: RunResult) -> list[str]:
    """What ran, as ``stage`` or ``stage:dataset``, sorted."""
    return sorted(":".join(filter(None, [e.stage, e.label])) for e in result.executions if not e.cached)
