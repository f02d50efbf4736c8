"""What only a GPU can show: run there with ``make test ARGS=tests/test_gpu.py``."""

import warnings
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from helpers import make_partition
from safetensors.torch import load_file

from mofe.detection import ExpertKNN
from mofe.device import autocast
from mofe.models import MoFE
from mofe.training.losses import pairs_with_negatives
from mofe.training.mixup import Mixed
from mofe.training.step import TrainingStep

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def model_of(experts: int) -> MoFE:
    torch.manual_seed(0)
    args = {"img_size": 56, "depth": 4, "embed_dim": 64, "num_heads": 2}
    backbone = timm.create_model("vit_small_patch14_dinov2", num_classes=0, init_values=0.1, **args)
    return MoFE(backbone, make_partition([c % experts for c in range(16)]))


def batch_of(size: int) -> Mixed:
    labels_B = torch.arange(size) % 16
    return Mixed(torch.randn(size, 3, 56, 56), labels_B, labels_B.roll(1), torch.full((size,), 0.8))


def pairs_of(model: MoFE, batch: Mixed) -> tuple[torch.Tensor, torch.Tensor]:
    cluster_B = model.expert_of_class_C[batch.labels_a].cpu()
    return pairs_with_negatives(cluster_B, torch.Generator().manual_seed(1))


@pytest.mark.parametrize("half", [False, True])
def test_neighbours_are_those_that_the_cpu_finds(half: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if half:
        monkeypatch.setattr("mofe.detection.knn.LARGEST", 1000)
    rng = np.random.default_rng(0)
    bank, experts = rng.normal(size=(5000, 96)).astype(np.float32), rng.integers(0, 3, 5000)
    queries, routes = rng.normal(size=(300, 96)).astype(np.float32), rng.integers(0, 3, 300)
    queries[0], routes[0] = bank[7], experts[7]
    on_gpu = ExpertKNN.build(bank, experts, 50)
    on_cpu = ExpertKNN(on_gpu.indexes, 50, torch.device("cpu"))
    assert on_gpu._banks[0][0].is_cuda
    np.testing.assert_allclose(on_gpu.score(queries, routes), on_cpu.score(queries, routes), atol=1e-5)
    for n in (1, 50):
        score_B, distance_Bn, row_Bn = on_gpu.search(queries, routes, n)
        expected_B, expected_Bn, expected_row_Bn = on_cpu.search(queries, routes, n)
        np.testing.assert_allclose(score_B, expected_B, atol=1e-5)
        np.testing.assert_allclose(distance_Bn, expected_Bn, atol=1e-5)
        assert (row_Bn == expected_row_Bn).mean() > 0.999
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (1000, 1000))
    assert ExpertKNN.build(bank, experts, 50)._banks[0][0].is_cpu


@pytest.mark.parametrize("experts", [1, 3])
def test_the_model_says_what_it_says_on_the_cpu(experts: int) -> None:
    model, images = model_of(experts).eval(), torch.randn(20, 3, 56, 56)
    with torch.inference_mode():
        expected, found = model(images), model.cuda()(images.cuda())
        torch.testing.assert_close(found.embedding_BD.cpu(), expected.embedding_BD, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(found.logits.cpu(), expected.logits, atol=1e-4, rtol=1e-4)


@pytest.fixture(autouse=True)
def settings_put_back() -> Iterator[None]:
    yield
    torch.use_deterministic_algorithms(False)
    torch.cuda.set_sync_debug_mode("default")


def waits_in(work: Callable[[], object]) -> list[str]:
    """Where the host waits for the GPU, the second time that the work is done."""
    work()  # what is made once
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        work()
        torch.cuda.set_sync_debug_mode("default")
    return [f"{w.filename}:{w.lineno}: {w.message}" for w in seen if "called a synchronizing" in str(w.message)]


@pytest.mark.parametrize("experts", [2, 16])
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_the_host_does_not_wait_for_the_gpu_in_a_step(experts: int, precision: str) -> None:
    model = model_of(experts).cuda()
    step = TrainingStep(model, "none", 0.0)
    batch = Mixed(*(t.cuda() for t in batch_of(64)))
    pairs = pairs_of(model, batch)
    with autocast(precision, training=True):
        assert not waits_in(lambda: step(batch, *pairs))


@pytest.mark.parametrize("experts", [1, 2, 16])
def test_the_host_does_not_wait_for_the_gpu_in_a_forward_pass(experts: int) -> None:
    model, images = model_of(experts).cuda().eval(), torch.randn(64, 3, 56, 56, device="cuda")
    one_kernel = torch.cuda.get_device_capability() >= (9, 0)
    for precision, waits in (("bf16", experts > 1 and not one_kernel), ("fp32", experts > 1)):
        with torch.inference_mode(), autocast(precision):
            assert len(waits_in(lambda: model(images))) == waits


def test_one_kernel_for_all_experts_does_what_one_for_each_does(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.use_deterministic_algorithms(True)
    model = model_of(5).cuda()
    tokens_BTD = torch.randn(30, 17, 64, device="cuda")
    image_P, expert_P = torch.randint(0, 30, (60,)), torch.tensor([0, 1, 3])[torch.randint(0, 3, (60,))]  # not 2 and 4
    found = []
    for kernel, precision in ((True, "bf16"), (True, "bf16"), (False, "bf16"), (False, "fp32")):
        if not kernel:
            monkeypatch.setattr("mofe.models.mofe.one_kernel_suits", lambda _: False)
        model.zero_grad(set_to_none=True)
        with autocast(precision, training=True):
            output_PD = model.run_experts(tokens_BTD, image_P, expert_P)
        output_PD.square().sum().backward()
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.experts.parameters()]
        found.append([output_PD.detach().float(), *gradients])
    one, again, each, exact = found
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    for a, b, c in zip(one, each, exact, strict=True):
        off, allowed = (a - c).norm(), (b - c).norm()
        assert off <= 2 * allowed + 1e-2 * c.norm()
    assert not any(p.grad is not None and p.grad.any() for e in (2, 4) for p in model.experts[e].parameters())


def test_a_compiled_step_has_the_losses_and_gradients_of_one_that_is_not() -> None:
    found = []
    for compiled in (False, True):
        model = model_of(3).cuda()
        step = TrainingStep(model, "label-smoothing", 0.1, compiled=compiled)
        batch = Mixed(*(t.cuda() for t in batch_of(32)))
        with autocast("fp32", training=True):
            losses = step(batch, *pairs_of(model, batch))
        losses.total.backward()
        found.append([torch.stack(losses).detach(), *(p.grad for p in model.parameters() if p.grad is not None)])
        torch.manual_seed(0)
    for plain, quick in zip(*found, strict=True):
        torch.testing.assert_close(quick, plain, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("compiled", [False, True])
def test_the_same_training_again_gives_the_same_weights(
    compiled: bool, trained: Callable[..., SimpleNamespace], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mofe.device.COMPILED_FROM", 0 if compiled else 1 << 62)
    once, again = trained(epochs=2, precision="bf16"), trained("again", epochs=2, precision="bf16")
    first, second = (load_file(f"{paths.model}/model.safetensors") for paths in (once, again))
    assert all(torch.equal(first[name], second[name]) for name in first)
