"""Files of weights as other programs write them, and files that are none."""

import json
import logging
import struct
from pathlib import Path

import fsspec
import pytest
import timm
import torch
from helpers import TINY
from safetensors.torch import save, save_file
from torch import Tensor

from mofe.errors import MofeError
from mofe.models import create_backbone, describe_backbone

NAME = "vit_tiny_patch16_224"


@pytest.fixture
def state() -> dict[str, Tensor]:
    torch.manual_seed(7)
    return timm.create_model(NAME, num_classes=0, **TINY).state_dict()


def below(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: w for name, w in state.items()}


def loaded(file: Path, name: str = NAME) -> dict[str, Tensor]:
    return create_backbone(describe_backbone(name, TINY, str(file))).state_dict()


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(w, expected[name]) for name, w in found.items())


@pytest.mark.parametrize(
    "prefix", ["backbone.", "model.", "module.", "teacher.", "encoder.", "module.backbone.", "model.encoder.vit."]
)
@pytest.mark.parametrize("form", ["flat", "nested", "safetensors"])
def test_weights_below_a_prefix_are_found(tmp_path: Path, state: dict[str, Tensor], prefix: str, form: str) -> None:
    file = tmp_path / ("w.safetensors" if form == "safetensors" else "w.pth")
    if form == "safetensors":
        save_file(below(prefix, state), file)
    elif form == "flat":
        torch.save({"state_dict": below(prefix, state), "epoch": 3}, file)
    else:
        first, _, rest = prefix.partition(".")
        torch.save({first: below(rest, state), "epoch": 3}, file)
    assert_same(loaded(file), state)


def test_the_prefix_and_what_is_beside_it_are_told(
    tmp_path: Path, state: dict[str, Tensor], caplog: pytest.LogCaptureFixture
) -> None:
    save_file({**below("backbone.", state), "projector.weight": torch.ones(2)}, tmp_path / "w.safetensors")
    with caplog.at_level(logging.WARNING):
        loaded(tmp_path / "w.safetensors")
    assert "w.safetensors: read the tensors below 'backbone.'; not used: projector.weight" in caplog.text


def test_of_a_student_and_its_teacher_the_teacher_is_read(tmp_path: Path, state: dict[str, Tensor]) -> None:
    student = below("student.backbone.", {name: w + 1 for name, w in state.items()})
    torch.save({**student, **below("teacher.backbone.", state)}, tmp_path / "dino.pth")
    assert_same(loaded(tmp_path / "dino.pth"), state)


def test_two_backbones_in_one_file_are_not_chosen_from(tmp_path: Path, state: dict[str, Tensor]) -> None:
    both = {**below("left.", state), **below("right.", {name: w + 1 for name, w in state.items()})}
    save_file(both, tmp_path / "two.safetensors")
    with pytest.raises(MofeError, match=r"two\.safetensors hold 2 backbones, below left\., right\."):
        loaded(tmp_path / "two.safetensors")


@pytest.mark.parametrize("head", ["head", "head_dist", "fc", "classifier", "decoder_blocks.0.mlp"])
def test_heads_are_left_out(tmp_path: Path, state: dict[str, Tensor], head: str) -> None:
    save_file({**state, f"{head}.weight": torch.ones(5, 24), f"{head}.bias": torch.ones(5)}, tmp_path / "w.safetensors")
    assert_same(loaded(tmp_path / "w.safetensors"), state)


def test_distilled_weights_with_both_their_heads(tmp_path: Path) -> None:
    name = "deit_tiny_distilled_patch16_224"
    whole = timm.create_model(name, num_classes=5, **TINY).state_dict()
    assert "head_dist.weight" in whole
    save_file(whole, tmp_path / "deit.safetensors")
    assert_same(loaded(tmp_path / "deit.safetensors", name), {k: w for k, w in whole.items() if "head" not in k})


def test_missing_unexpected_and_misshapen_tensors_are_all_shown(tmp_path: Path, state: dict[str, Tensor]) -> None:
    del state["norm.weight"]
    state |= {"cls_token": torch.ones(1, 1, 7), "adapter.weight": torch.ones(2)}
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(MofeError) as failed:
        loaded(tmp_path / "w.safetensors")
    for words in (
        "1 missing: norm.weight",
        "1 unexpected: adapter.weight",
        "1 of another shape: cls_token is 1×1×7 instead of 1×1×24",
    ):
        assert words in str(failed.value)
    assert len(str(failed.value)) < 400


def test_names_of_another_library_are_shown(tmp_path: Path, state: dict[str, Tensor]) -> None:
    save_file(below("vit.layer_", {"0": torch.ones(2), "1": torch.ones(2)}), tmp_path / "w.safetensors")
    with pytest.raises(MofeError, match=r"\d+ missing: cls_token, .* more; 2 unexpected: vit\.layer_0, vit\.layer_1"):
        loaded(tmp_path / "w.safetensors")


def zipped(state: dict[str, Tensor], folder: Path) -> bytes:
    torch.save(state, folder / "whole")
    return (folder / "whole").read_bytes()


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 99\n",
            "are a Git LFS pointer.*git lfs pull",
        ),
        (b"\n <!DOCTYPE html><html><title>Sign in</title></html>", "are an HTML or XML page"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "are an HTML or XML page"),
        (b"", "are an empty file"),
    ],
)
@pytest.mark.parametrize("remote", [False, True])
def test_what_lies_in_the_place_of_weights_is_named(
    tmp_path: Path, content: bytes, words: str, suffix: str, remote: bool
) -> None:
    uri = f"memory://mistaken/w{suffix}" if remote else str(tmp_path / f"w{suffix}")
    with fsspec.open(uri, "wb") as file:
        file.write(content)
    with pytest.raises(MofeError, match=rf"the weights {uri} {words}"):
        describe_backbone(NAME, TINY, uri)


@pytest.mark.parametrize("left", [0.999, 0.5, 0.1])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_truncated_files_are_called_truncated(
    tmp_path: Path, state: dict[str, Tensor], suffix: str, left: float
) -> None:
    content = save(state) if suffix == ".safetensors" else zipped(state, tmp_path)
    file = tmp_path / f"w{suffix}"
    file.write_bytes(content[: int(left * len(content))])
    with pytest.raises(MofeError, match=rf"w{suffix} are truncated.*again"):
        describe_backbone(NAME, TINY, str(file))


def test_formats_under_each_others_suffix(tmp_path: Path, state: dict[str, Tensor]) -> None:
    (tmp_path / "a.pth").write_bytes(save(state))
    (tmp_path / "b.safetensors").write_bytes(zipped(state, tmp_path))
    with pytest.raises(MofeError, match=r"are a safetensors file: rename it to a\.safetensors"):
        describe_backbone(NAME, TINY, str(tmp_path / "a.pth"))
    with pytest.raises(MofeError, match=r"are a file of torch\.save: rename it to b\.pth"):
        describe_backbone(NAME, TINY, str(tmp_path / "b.safetensors"))


@pytest.mark.parametrize("header", [b"{]", b"[1, 2]", b'{"a": {}}'])
def test_a_damaged_header_is_said(tmp_path: Path, header: bytes) -> None:
    (tmp_path / "w.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(MofeError, match=r"damaged: their header is not readable|not a safetensors file"):
        describe_backbone(NAME, TINY, str(tmp_path / "w.safetensors"))


def test_a_file_without_tensors_fits_nothing(tmp_path: Path) -> None:
    header = json.dumps({}).encode()
    (tmp_path / "w.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(MofeError, match=r"do not fit vit_tiny_patch16_224: \d+ missing"):
        loaded(tmp_path / "w.safetensors")
