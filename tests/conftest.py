"""Small things that many tests need: a tiny backbone, a partition, an image set, all made here."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.models.vision_transformer import VisionTransformer

from mofe import storage
from mofe.artifacts import ImageSet, Partition, write_image_shards

TINY = {"img_size": 16, "patch_size": 8, "depth": 3, "embed_dim": 24, "num_heads": 2}
"""``timm.create_model("vit_tiny_patch16_224", **TINY)``: 5 tokens, 3 blocks, 24 features."""


@pytest.fixture
def backbone() -> VisionTransformer:
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", num_classes=0, **TINY).eval()


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


@pytest.fixture
def make_images(tmp_path: Path) -> Callable[..., str]:
    """Writes an image set of striped images; returns its path."""

    def make(
        name: str = "train", role: str = "train", classes: Sequence[int] = (0, 1, 2, 3), per_class: int = 12
    ) -> str:
        rng = np.random.default_rng(sum(name.encode()))
        names = tuple(f"class{c}" for c in classes)
        uri = str(tmp_path / name)
        with storage.staged(uri) as folder:
            with write_image_shards(folder, names, rows_per_group=8, groups_per_shard=2) as writer:
                for i in rng.permutation(len(classes) * per_class).tolist():
                    label = i % len(classes)
                    writer.add(striped(classes[label], rng), f"{name}/{i}.png", label)
            ImageSet(
                name=name,
                role=role,  # type: ignore[arg-type]
                source="made by a test",
                digest=name,
                classes=names,
                synsets=(None,) * len(names),
                counts=tuple(writer.counts),
                num_images=writer.num_images,
                num_rejected=0,
                rejected=(),
            ).write(folder)
        return uri

    return make
