"""Where tensors live and in which precision they are multiplied; an accelerator is pretended."""

import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mofe import device as module
from mofe.device import COMPILED_FROM, autocast, compiling_pays, device, resolve_precision, to_device
from mofe.errors import MofeError

Pretend = Callable[[str], None]


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Pretend:
    """``pretend("cuda")``: the machine has such an accelerator."""

    def accelerator(kind: str) -> None:
        monkeypatch.setattr(torch.accelerator, "is_available", lambda: kind != "cpu")
        monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device(kind))

    return accelerator


def test_the_device_is_the_accelerator_else_the_cpu(pretend: Pretend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    for kind, expected in (("cpu", torch.device("cpu")), ("cuda", torch.device("cuda", 0)), ("mps", "mps:0")):
        pretend(kind)
        assert device() == torch.device(expected)


def test_each_process_of_torchrun_has_an_accelerator_of_its_own(
    pretend: Pretend, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend("cuda")
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert device() == torch.device("cuda", 3)


@pytest.mark.parametrize(("kind", "waits"), [("cuda", False), ("cpu", True), ("mps", True)])
def test_the_host_waits_for_all_devices_but_cuda(kind: str, waits: bool) -> None:
    calls: list[tuple[torch.device, bool]] = []

    class Noted:
        def to(self, place: torch.device, non_blocking: bool = False) -> str:
            calls.append((place, non_blocking))
            return "there"

    assert to_device(Noted(), torch.device(kind)) == "there"  # type: ignore[arg-type, comparison-overlap]
    assert calls == [(torch.device(kind), not waits)]


@pytest.fixture
def compiler(pretend: Pretend, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A GPU of compute capability 7.0 with all that Triton needs; the folder of Python's header."""
    pretend("cuda")
    (tmp_path / "Python.h").touch()
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (7, 0))
    monkeypatch.setattr(sysconfig, "get_path", {"include": str(tmp_path)}.__getitem__)
    monkeypatch.setattr(module, "find_spec", {"triton": "found"}.get)
    monkeypatch.setattr("shutil.which", {"gcc": "/usr/bin/gcc"}.get)
    return tmp_path


def test_compiling_pays_for_many_images_on_a_gpu_with_a_compiler(compiler: Path) -> None:
    assert compiling_pays(COMPILED_FROM) is True
    assert compiling_pays(COMPILED_FROM - 1) is False


@pytest.mark.parametrize("name", ["cc", "gcc", "clang"])
def test_any_c_compiler_will_do(compiler: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", {name: f"/usr/bin/{name}"}.get)
    assert compiling_pays(COMPILED_FROM)
    monkeypatch.setattr("shutil.which", {"ld": "/usr/bin/ld"}.get)
    assert not compiling_pays(COMPILED_FROM)


def test_nothing_is_compiled_where_one_thing_is_missing(
    compiler: Path, pretend: Pretend, monkeypatch: pytest.MonkeyPatch
) -> None:
    for capability, pays in (((6, 1), False), ((7, 0), True), ((9, 0), True)):  # Triton needs 7.0
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_, found=capability: found)
        assert compiling_pays(COMPILED_FROM) is pays
    with monkeypatch.context() as patched:
        patched.setattr(module, "find_spec", lambda _: None)
        assert not compiling_pays(COMPILED_FROM)
    (compiler / "Python.h").unlink()
    assert not compiling_pays(COMPILED_FROM)
    (compiler / "Python.h").touch()
    pretend("mps")
    assert not compiling_pays(COMPILED_FROM)


def on_cpu(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    class Mkldnn:
        _is_mkldnn_bf16_supported = staticmethod(lambda: native)

    monkeypatch.setattr(torch.ops, "mkldnn", Mkldnn)


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("training", [True, False, None])
@pytest.mark.parametrize("precision", ["auto", "bf16", "fp32"])
def test_on_a_cpu_auto_is_bf16_where_that_is_native_and_nothing_is_trained(
    precision: str, training: bool | None, native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_cpu(native, monkeypatch)
    with autocast(precision) if training is None else autocast(precision, training=training):
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    rounded = precision == "bf16" or (precision == "auto" and native and not training)
    assert product.dtype == (torch.bfloat16 if rounded else torch.float32)


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_on_a_gpu_auto_is_bf16_where_that_is_native(
    training: bool, native: bool, pretend: Pretend, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[str, torch.dtype, bool]] = []
    pretend("cuda")
    on_cpu(not native, monkeypatch)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: native)
    monkeypatch.setattr(torch, "autocast", lambda kind, dtype, enabled: made.append((kind, dtype, enabled)))
    for precision in ("auto", "bf16", "fp32"):
        autocast(precision, training=training)
    assert made == [("cuda", torch.bfloat16, enabled) for enabled in (native, True, False)]


@pytest.mark.parametrize("precision", ["fp16", "AUTO", ""])
def test_other_precisions_are_refused(precision: str) -> None:
    with pytest.raises(MofeError, match=f"precision '{precision}' is not one of auto, bf16, fp32"):
        autocast(precision)


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_what_is_recorded_is_what_is_computed_in(training: bool, native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    on_cpu(native, monkeypatch)
    for precision in ("auto", "bf16", "fp32"):
        found = resolve_precision(precision, training=training)
        assert found == (
            "bf16" if precision == "auto" and native and not training else precision.replace("auto", "fp32")
        )
        with autocast(precision, training=training):
            product = torch.ones(2, 2) @ torch.ones(2, 2)
        assert product.dtype == {"bf16": torch.bfloat16, "fp32": torch.float32}[found]
