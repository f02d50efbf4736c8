"""Fixtures that many tests need."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from helpers import TINY, striped
from timm.models.vision_transformer import VisionTransformer

from mofe import storage
from mofe.artifacts import ImageSet, write_image_shards

torch.set_num_threads(1)  # models this small only wait for their threads


@pytest.fixture
def backbone() -> VisionTransformer:
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", num_classes=0, **TINY).eval()


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
