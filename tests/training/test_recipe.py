"""How a step's images are shared among processes and micro-batches."""

from dataclasses import replace

import pytest

from mofe.artifacts.recipe import Recipe
from mofe.errors import MofeError

PAPERS = Recipe(
    epochs=40, probe_epochs=3, probe_learning_rate=1e-3, batch_size=1024, micro_batch_size=128, learning_rate=1e-4,
    min_learning_rate=1e-6, warmup_epochs=5.0, weight_decay=0.05, layer_decay=0.75, drop_path=0.1, clip_norm=1.0,
    augmentation="randaugment", mixup="dynamic", mixup_scale=0.9, mixup_sigma=1.0, fold_lambda=True,
    regulariser="label-smoothing", regulariser_weight=0.1, negative_weight=1.0, router="cluster",
    expert_init="backbone", validation_fraction=0.05, seed=0,
)  # fmt: skip


@pytest.mark.parametrize(
    ("batch", "micro", "processes", "shares"),
    [
        (1024, 128, 1, (128, 8)), (1024, 128, 8, (128, 1)), (1024, 128, 16, (64, 1)), (1024, 128, 32, (32, 1)),
        (1000, 128, 1, (125, 8)), (200, 128, 1, (100, 2)), (768, 128, 3, (128, 2)), (64, 64, 1, (64, 1)),
        (16, 32, 1, (16, 1)), (1, 1, 1, (1, 1)),
    ],
)  # fmt: skip
def test_a_step_has_as_many_images_as_were_asked_for(
    batch: int, micro: int, processes: int, shares: tuple[int, int]
) -> None:
    found = replace(PAPERS, batch_size=batch, micro_batch_size=micro).shares(processes)
    assert found == shares
    assert found[0] * found[1] * processes == batch


@pytest.mark.parametrize(("batch", "micro", "processes"), [(1024, 128, 3), (4, 4, 8), (1018, 128, 1)])
def test_what_cannot_be_shared_evenly_is_refused(batch: int, micro: int, processes: int) -> None:
    with pytest.raises(MofeError, match=f"batch_size = {batch} cannot be shared evenly among {processes} processes"):
        replace(PAPERS, batch_size=batch, micro_batch_size=micro).shares(processes)
