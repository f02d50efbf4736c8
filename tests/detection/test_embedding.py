"""Embedding a set: in its order, whatever the batches, compiled or not."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers import TINY, make_partition

from mofe.artifacts.image_shards import ImageShards
from mofe.data.images import decode
from mofe.data.loader import evaluation_transform, normalised
from mofe.device import COMPILED_FROM, compiling_pays, one_thread
from mofe.errors import MofeError
from mofe.inference import embedding
from mofe.inference.embedding import (
    CHECKED,
    EmbeddedBatch,
    EmbedOptions,
    create_pretrained,
    embed_shards,
    group_batches,
    on_cpu,
)
from mofe.models.backbone import create_backbone, describe_backbone
from mofe.models.mofe import MoFE, MoFEOutput

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


def pixels(shards: ImageShards) -> torch.Tensor:
    """All images as the backbone wants them."""
    transform = evaluation_transform(SPEC.preprocessing)
    return normalised(torch.stack([transform(decode(shards.image(i)[0])) for i in range(len(shards))]),
                      SPEC.preprocessing)  # fmt: skip


def mixture(seed: int = 0) -> MoFE:
    """Two experts of two classes each, that say different things of an image."""
    torch.manual_seed(seed)
    model = MoFE(create_backbone(SPEC), make_partition([0, 1, 0, 1]))
    for parameter in (*model.router.parameters(), *model.heads.parameters(), *model.experts[1].parameters()):
        torch.nn.init.normal_(parameter, std=0.2)
    return model


OPTIONS = EmbedOptions(SPEC.preprocessing, 3, 0, "fp32")


def test_the_pretrained_model_is_the_backbone(make_images: Callable[..., str]) -> None:
    """What timm's model itself says of the same pixels: its class token after all blocks and the norm."""
    shards = ImageShards(make_images(per_class=2))
    (whole,) = group_batches(iter(embedded(shards, 3)))
    (output,) = whole.outputs
    model = create_pretrained(SPEC, shards.info.classes)
    with torch.inference_mode():
        expected = create_backbone(SPEC).eval().forward_features(pixels(shards))[:, 0]
    assert (model.num_experts, model.num_classes, model.depth) == (1, 4, SPEC.depth)
    torch.testing.assert_close(output.embedding_BD, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("routed", [False, True])
def test_each_model_is_asked_about_the_same_pixels(routed: bool, make_images: Callable[..., str]) -> None:
    """In evaluation; where the expert of each class is given, by that one instead of the router's."""
    shards = ImageShards(make_images(per_class=3))
    models = [mixture(0).train(), mixture(1).train()]
    experts_C = np.array([1, 0, 1, 1]) if routed else None
    batches = list(embed_shards(models, shards, OPTIONS, label="looking", expert_of_class=experts_C))
    assert [len(batch.positions_B) for batch in batches] == [3, 3, 3, 3]
    whole = EmbeddedBatch.concat(batches)
    assert whole.local_B.shape == (0,)
    routes = torch.from_numpy(experts_C[shards.labels_N]) if experts_C is not None else None
    assert len(whole.outputs) == 2
    for model, output in zip(models, whole.outputs, strict=True):
        assert not model.training
        with torch.inference_mode():
            expected = model(pixels(shards), routes)
        for name in MoFEOutput._fields:
            torch.testing.assert_close(getattr(output, name), getattr(expected, name), rtol=1e-4, atol=1e-5)
    if routed:
        assert whole.outputs[1].expert_B.tolist() == experts_C[shards.labels_N].tolist()  # type: ignore[index]


def test_what_patches_show_is_asked_after_each_batch(make_images: Callable[..., str]) -> None:
    shards = ImageShards(make_images(per_class=2))
    model, seen = mixture(), []
    model.register_forward_hook(lambda _, __, output: seen.append(output.embedding_BD.sum(dim=1).double()))
    found = list(embed_shards([model], shards, OPTIONS, label="looking", local=lambda: seen[-1] + 1))
    whole = EmbeddedBatch.concat(found)
    assert whole.local_B.dtype == torch.float64
    torch.testing.assert_close(whole.local_B, torch.cat(seen) + 1)


def broken(where: str) -> MoFE:
    """A model that says NaN of the second image of a batch from there on."""
    model = mixture()

    def overflow(_: object, inputs: object, output: torch.Tensor) -> torch.Tensor:
        spoilt = output.clone()
        spoilt[1:2] = torch.nan
        return spoilt

    module = {"trunk embedding": model.trunk.norm, "embedding": model.norm}[where]
    module.register_forward_hook(overflow)
    return model


@pytest.mark.parametrize("where", ["trunk embedding", "embedding"])
def test_what_is_not_finite_is_told_with_its_image(where: str, make_images: Callable[..., str]) -> None:
    shards = ImageShards(make_images(per_class=2))
    name = shards.image(1)[1]
    with pytest.raises(MofeError, match=rf"^looking: the {where} of {name} is not finite; try precision=fp32$"):
        list(embed_shards([broken(where)], shards, OPTIONS, label="looking"))
    models = [mixture(), broken(where)]
    with pytest.raises(MofeError, match=rf"^looking: the {where} of {name} \(model 2 of 2\) is not finite"):
        list(embed_shards(models, shards, OPTIONS, label="looking"))


def some_output(**changed: torch.Tensor) -> MoFEOutput:
    plain = MoFEOutput(torch.ones(3, 2), torch.zeros(3).long(), torch.ones(3, 4), torch.ones(3, 5), torch.ones(3, 4))
    return plain._replace(**changed)


@pytest.mark.parametrize(
    ("field", "part"),
    [("trunk_BD", "trunk embedding"), ("embedding_BD", "embedding"), ("router_logits_BE", "router output"),
     ("logits", "logits")],
)  # fmt: skip
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_each_part_of_an_output_is_looked_at(bad: float, field: str, part: str) -> None:
    values = getattr(some_output(), field).clone()
    values[2, 1] = bad
    faults = embedding._faults(some_output(**{field: values}))
    assert faults.nonzero().tolist() == [[CHECKED.index(part), 2]]


def test_minus_infinity_is_right_for_a_class_of_another_expert() -> None:
    logits = torch.tensor([[1.0, -torch.inf, -300]]).expand(3, -1)
    assert not embedding._faults(some_output(logits=logits)).any()
    assert embedding._faults(some_output(embedding_BD=-torch.inf * torch.ones(3, 4))).sum() == 3


def test_half_precision_is_float32_on_the_cpu_and_numbers_of_experts_stay_whole() -> None:
    found = on_cpu(some_output(embedding_BD=torch.full((3, 4), 0.5, dtype=torch.bfloat16)))
    assert [t.dtype for t in found] == [torch.float32, torch.int64, torch.float32, torch.float32, torch.float32]
    assert found.embedding_BD.eq(0.5).all()


def test_some_batches_at_a_time_are_joined(make_images: Callable[..., str]) -> None:
    shards = ImageShards(make_images(per_class=4))
    batches = embedded(shards, 3)
    pairs = list(group_batches(iter(batches), 2))
    assert [len(pair.positions_B) for pair in pairs] == [6, 6, 4]
    assert np.concatenate([pair.positions_B for pair in pairs]).tolist() == list(range(16))


def test_a_tenth_of_the_whole_set_says_whether_to_compile(
    make_images: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An image that is only looked at counts a tenth; of a part the whole counts, or its shards would differ."""
    shards, asked = ImageShards(make_images(per_class=5)), []
    monkeypatch.setattr(embedding, "compiling_pays", lambda images: bool(asked.append(images)))
    embedded(shards, 8, np.array([1, 2]))
    assert asked == [2.0]


def test_the_bar_has_its_label_and_counts_images(
    make_images: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    shards = ImageShards(make_images(per_class=5))
    list(embed_shards([mixture()], shards, OPTIONS, label="looking", positions=np.arange(7)))
    last = capsys.readouterr().err.strip().splitlines()[-1].split("\r")[-1]
    assert last.startswith("looking: 100%")
    assert "7/7" in last


def test_the_pretrained_model_has_the_depth_of_its_backbone() -> None:
    assert create_pretrained(describe_backbone("vit_tiny_patch16_224", TINY, "random", depth=2), ("a", "b")).depth == 2


def test_batches_of_one_model_and_of_two_are_not_joined() -> None:
    one, two = (EmbeddedBatch(np.arange(3), np.zeros(3, int), n * (some_output(),), torch.empty(0)) for n in (1, 2))
    assert len(EmbeddedBatch.concat([two, two]).outputs) == 2
    with pytest.raises(ValueError, match="argument 2 is longer"):
        EmbeddedBatch.concat([one, two])
