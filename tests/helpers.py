"""Small things that many tests make: a tiny backbone, a partition, images, a training."""

import io
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
from PIL import Image

from mofe import storage
from mofe.artifacts import ImageSet, Partition, Role, write_image_shards
from mofe.cli import main
from mofe.local_runner import RunResult
from mofe.stages.finetune import finetune

TINY = {"img_size": 16, "patch_size": 8, "depth": 3, "embed_dim": 24, "num_heads": 2}
"""``timm.create_model("vit_tiny_patch16_224", **TINY)``: 5 tokens, 3 blocks, 24 features."""


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
    with storage.staged(uri) as place:
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
            num_images=writer.num_images,
            num_rejected=0,
            rejected=(),
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
    with storage.staged(paths.partition) as place:
        make_partition(clusters).write(place)
    small = {
        "epochs": 2, "probe_epochs": 20, "probe_learning_rate": 0.01, "batch_size": 16, "micro_batch_size": 16,
        "learning_rate": 1e-3, "warmup_epochs": 0.5, "augmentation": "none", "num_workers": 0,
    }  # fmt: skip
    finetune(paths.images, paths.features, paths.partition, paths.model, paths.history, **{**small, **parameters})
    return paths


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
