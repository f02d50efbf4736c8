"""A model in a folder: what is read is what was written, and nothing else is taken for it."""

from pathlib import Path

import pytest
import torch
from helpers import TINY, make_partition
from safetensors.torch import load_file, save_file

from mofe.artifacts.model import ModelConfig
from mofe.artifacts.partition import RouterKind
from mofe.errors import MofeError
from mofe.models import MoFE, create_backbone, describe_backbone, load_model
from mofe.models.checkpoint import WEIGHTS, save_model
from mofe.storage import locations, writing


def written(folder: Path, depth: int = 1, top_k: int = 1, router: RouterKind = "cluster") -> tuple[MoFE, ModelConfig]:
    spec = describe_backbone("vit_tiny_patch16_224", TINY, "random", depth=depth)
    partition = make_partition([0, 1, 1])
    torch.manual_seed(5)
    model = MoFE(create_backbone(spec), partition, depth, top_k, router)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    config = ModelConfig(
        library_version="0", backbone=spec, top_k=top_k, router=router, partition=partition, validation_fraction=0.1,
        seed=0, training={},
    )  # fmt: skip
    with writing.staged(folder) as place:
        save_model(place, model, config)
    return model, config


@pytest.mark.parametrize(("depth", "top_k", "router"), [(1, 1, "cluster"), (2, 2, "class")])
def test_a_model_is_read_as_it_was_written(tmp_path: Path, depth: int, top_k: int, router: RouterKind) -> None:
    model, config = written(tmp_path / "model", depth, top_k, router)
    state = load_file(tmp_path / "model" / WEIGHTS)
    assert WEIGHTS == "model.safetensors"
    assert {name: w.tolist() for name, w in state.items()} == {n: w.tolist() for n, w in model.state_dict().items()}
    read, its_config = load_model(str(tmp_path / "model"))
    assert (read.depth, read.top_k, read.routes_by_class) == (depth, top_k, router == "class")
    assert its_config.model_dump(exclude={"files"}) == config.model_dump(exclude={"files"})
    images = torch.randn(4, 3, 16, 16)
    with torch.inference_mode():
        for found, wanted in zip(read(images), model.eval()(images), strict=True):
            torch.testing.assert_close(found, wanted, rtol=0, atol=0)
    assert not any(module.training for module in read.modules())
    assert not any(parameter.requires_grad for parameter in read.parameters())


def test_the_backbones_own_weights_are_not_needed(tmp_path: Path) -> None:
    """They may be gone, and the hub out of reach: the model's file holds all."""
    model, config = written(tmp_path / "model")
    missing = config.backbone.model_copy(update={"weights": str(tmp_path / "gone.safetensors")})
    with writing.staged(tmp_path / "other") as place:
        save_model(place, model, config.model_copy(update={"backbone": missing, "files": {}}))
    read, _ = load_model(str(tmp_path / "other"))
    assert all(torch.equal(w, model.state_dict()[name]) for name, w in read.state_dict().items())


def test_weights_that_are_not_finite_are_not_written(tmp_path: Path) -> None:
    model, config = written(tmp_path / "model")
    for value in (torch.nan, torch.inf):
        torch.nn.init.constant_(model.heads[1].bias, value)
        (tmp_path / "other").mkdir(exist_ok=True)
        with pytest.raises(MofeError, match=r"the weights heads\.1\.bias of the model are not finite: .*other"):
            save_model(locations.resolve(tmp_path / "other"), model, config)
        assert list((tmp_path / "other").iterdir()) == []


def test_weights_of_another_model_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path / "model")
    monkeypatch.setattr(ModelConfig, "check", lambda *_: None)
    save_file({"trunk.cls_token": torch.zeros(1, 1, 24)}, tmp_path / "model" / WEIGHTS)
    with pytest.raises(MofeError, match=r"model\.safetensors does not hold the weights of this model: .*Missing key"):
        load_model(tmp_path / "model")  # type: ignore[arg-type]
    (tmp_path / "model" / WEIGHTS).write_bytes(b"not safetensors")
    with pytest.raises(MofeError, match=r"model\.safetensors does not hold the weights of this model: \w+"):
        load_model(str(tmp_path / "model"))


def test_weights_that_were_changed_since_are_refused(tmp_path: Path) -> None:
    written(tmp_path / "model")
    state = load_file(tmp_path / "model" / WEIGHTS)
    save_file({name: w + 1 for name, w in state.items()}, tmp_path / "model" / WEIGHTS)
    with pytest.raises(MofeError, match=r"model\.safetensors"):
        load_model(str(tmp_path / "model"))
