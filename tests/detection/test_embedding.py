"""Embedding a set: in its order, whatever the batches, compiled or not."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers import TINY

from mofe.artifacts.image_shards import ImageShards
from mofe.device import COMPILED_FROM, compiling_pays, one_thread
from mofe.inference import embedding
from mofe.inference.embedding import EmbeddedBatch, EmbedOptions, create_pretrained, embed_shards, group_batches
from mofe.models.backbone import describe_backbone

SPEC = describe_backbone("vit_tiny_patch16_224", TINY, "random")


def embedded(shards: ImageShards, batch_size: int, positions: np.ndarray | None = None) -> list[EmbeddedBatch]:
    model = create_pretrained(SPEC, shards.info.classes)
    return list(
        embed_shards(
            [model], shards, EmbedOptions(SPEC.preprocessing, batch_size, 0, "fp32"), label="test", positions=positions
        )
    )


def test_every_image_comes_once_and_in_order(make_images: Callable[..., str]) -> None:
    shards = ImageShards(make_images(per_class=5))
    for batch_size in (4, len(shards), 100):
        batches = embedded(shards, batch_size)
        assert len(batches) == -(-len(shards) // batch_size)
        (whole,) = group_batches(iter(batches))
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

    def compile_quickly(function: Callable[..., torch.Tensor], **options: Any) -> Callable[..., torch.Tensor]:
        compiled.append(function)
        return real(function, backend="eager", **options)  # the graph, without the seconds

    monkeypatch.setattr(torch, "compile", compile_quickly)
    monkeypatch.setattr(embedding, "compiling_pays", lambda _: True)
    for ours, theirs in zip(embedded(shards, 5), plain, strict=True):
        torch.testing.assert_close(ours.outputs[0].embedding_BD, theirs.outputs[0].embedding_BD)
    assert len(compiled) == TINY["depth"] - 1


def test_only_many_images_on_a_gpu_are_worth_compiling(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "Python.h").touch()
    monkeypatch.setattr("sysconfig.get_path", lambda _: tmp_path)
    monkeypatch.setattr("mofe.device.find_spec", lambda _: True)
    monkeypatch.setattr("shutil.which", lambda _: "/usr/bin/cc")
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda: (8, 0))
    for kind, pays in (("cuda", True), ("cpu", False)):
        monkeypatch.setattr("mofe.device.device", lambda kind=kind: torch.device(kind))
        assert not compiling_pays(COMPILED_FROM - 1)
        assert compiling_pays(COMPILED_FROM) is pays
    monkeypatch.setattr("mofe.device.device", lambda: torch.device("cuda"))
    (tmp_path / "Python.h").unlink()
    assert not compiling_pays(COMPILED_FROM)


def test_a_batch_is_begun_before_the_one_before_is_given() -> None:
    begun = []

    def beginning() -> Iterator[Any]:
        for number in range(4):
            begun.append(number)
            yield SimpleNamespace(number=number)

    given = [(batch.number, len(begun)) for batch in embedding._one_ahead(beginning())]
    assert given == [(0, 2), (1, 3), (2, 4), (3, 4)]
    assert list(embedding._one_ahead(iter(()))) == []


def test_threads_are_given_back() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    with pytest.raises(ValueError, match="stop"), one_thread():
        assert torch.get_num_threads() == 1
        raise ValueError("stop")
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)
