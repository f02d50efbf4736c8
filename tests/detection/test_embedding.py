"""Embedding a set: in its order, whatever the batches, compiled or not."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from helpers import TINY

from mofe.artifacts.image_shards import ImageShards
from mofe.detection import embedding
from mofe.detection.embedding import EmbeddedBatch, embed_shards, together, untouched
from mofe.models.backbone import describe_backbone
from mofe.models.device import compiling_pays, one_thread

SPEC = describe_backbone("vit_tiny_patch16_224", TINY, "random")


def embedded(shards: ImageShards, batch_size: int, positions: np.ndarray | None = None) -> list[EmbeddedBatch]:
    model = untouched(SPEC, shards.info.classes)
    return list(
        embed_shards([model], shards, SPEC.preprocessing, label="test", batch_size=batch_size, num_workers=0,
                     precision="fp32", positions=positions)
    )  # fmt: skip


def test_every_image_comes_once_and_in_order(make_images: Callable[..., str]) -> None:
    shards = ImageShards(make_images(per_class=5))
    for batch_size in (4, len(shards), 100):
        batches = embedded(shards, batch_size)
        assert len(batches) == -(-len(shards) // batch_size)
        (whole,) = together(iter(batches))
        assert whole.positions_B.tolist() == list(range(len(shards)))
        assert whole.labels_B.tolist() == shards.labels_N.tolist()
    some = np.array([7, 2, 9])
    (batch,) = embedded(shards, 8, some)
    assert batch.positions_B.tolist() == some.tolist()
    torch.testing.assert_close(batch.outputs[0].embedding_BD, whole.outputs[0].embedding_BD[some])
    assert embedded(shards, 8, some[:0]) == []


def test_a_compiled_trunk_embeds_as_one_that_is_not(
    make_images: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = ImageShards(make_images(per_class=4))
    plain, compiled, real = embedded(shards, 5), [], torch.compile

    def compile_quickly(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        compiled.append(function)
        return real(function, backend="eager")  # the graph, without the seconds

    monkeypatch.setattr(torch, "compile", compile_quickly)
    monkeypatch.setattr(embedding, "compiling_pays", lambda _: True)
    for ours, theirs in zip(embedded(shards, 5), plain, strict=True):
        torch.testing.assert_close(ours.outputs[0].embedding_BD, theirs.outputs[0].embedding_BD)
    assert len(compiled) == TINY["depth"] - 1


def test_nothing_is_compiled_without_a_gpu_or_for_a_few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not compiling_pays(1000)
    monkeypatch.setattr("mofe.models.device.device", lambda: torch.device("cpu"))
    assert not compiling_pays(1e9)


def test_threads_are_given_back() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    with pytest.raises(ValueError, match="stop"), one_thread():
        assert torch.get_num_threads() == 1
        raise ValueError("stop")
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)
