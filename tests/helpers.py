"""Small things that many tests make: a tiny backbone, a partition, an image."""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from mofe.artifacts import Partition
from mofe.local_runner import RunResult

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


def executed(result: RunResult) -> list[str]:
    """What ran, as ``stage`` or ``stage:dataset``, sorted."""
    return sorted(":".join(filter(None, [e.stage, e.label])) for e in result.executions if not e.cached)
