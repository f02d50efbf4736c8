"""Rows of several experts against a loop over the rows, one matrix-vector product each."""

import pytest
import torch
from torch import Tensor

from mofe.models.groups import Groups, one_kernel_suits

EXPERT_P = torch.tensor([2, 0, 0, 3, 2, 0, 2])  # none for expert 1
CPU = torch.device("cpu")


def sorted_groups(num_experts: int, *, sized: bool = True) -> tuple[Groups, Tensor]:
    groups = Groups.of(EXPERT_P, num_experts, CPU, sized=sized)
    return groups, EXPERT_P[groups.order_P]


def test_rows_are_sorted_by_expert_and_stay_in_order_within_one() -> None:
    groups = Groups.of(EXPERT_P, 4, CPU)
    assert groups.order_P.tolist() == [1, 2, 5, 0, 4, 6, 3]
    assert groups.expert_P.tolist() == [0, 0, 0, 2, 2, 2, 3]
    assert groups.ends_E.tolist() == [3, 3, 6, 7]
    assert groups.ends_E.dtype == torch.int32
    assert groups.sizes == [3, 0, 3, 1]


def test_many_rows_stay_in_order_within_an_expert() -> None:
    """As many as no sort gets right by chance."""
    groups = Groups.of(torch.arange(5000) % 2, 2, CPU)
    assert groups.order_P.tolist() == [*range(0, 5000, 2), *range(1, 5000, 2)]


def test_the_host_does_not_learn_the_sizes_where_it_need_not() -> None:
    assert Groups.of(EXPERT_P, 4, CPU, sized=False).sizes is None
    assert Groups.of(torch.zeros(5, dtype=torch.int64), 1, CPU, sized=False).sizes == [5], "it knows this one anyway"


@pytest.mark.parametrize("shape", [(7, 16), (7, 3, 16)])
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("sized", [True, False])
def test_each_row_meets_the_weights_of_its_expert(shape: tuple[int, ...], biased: bool, sized: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(shape).bfloat16().float()  # where the host knows no sizes, bfloat16 is multiplied
    weights_E = [torch.randn(8, 16).bfloat16().float() for _ in range(4)]
    biases_E = [torch.randn(8).bfloat16().float() for _ in range(4)] if biased else None
    groups, expert_P = sorted_groups(4, sized=sized)
    found = groups.linear(x, weights_E, biases_E)
    expected = torch.stack([row @ weights_E[e].T for row, e in zip(x, expert_P, strict=True)])
    if biases_E:
        expected = torch.stack([row + biases_E[e] for row, e in zip(expected, expert_P, strict=True)])
    assert found.shape == expected.shape
    torch.testing.assert_close(found.float(), expected, **({} if sized else {"rtol": 2e-2, "atol": 5e-2}))


@pytest.mark.parametrize("shape", [(7, 16), (7, 3, 16)])
@pytest.mark.parametrize("shifted", [True, False])
@pytest.mark.parametrize("sized", [True, False])
def test_each_row_is_scaled_and_shifted_by_the_vectors_of_its_expert(
    shape: tuple[int, ...], shifted: bool, sized: bool
) -> None:
    torch.manual_seed(0)
    x = torch.randn(shape)
    scales_E, shifts_E = ([torch.randn(16) for _ in range(4)] for _ in range(2))
    groups, expert_P = sorted_groups(4, sized=sized)
    found = groups.affine(x, scales_E, shifts_E if shifted else None)
    expected = [scales_E[e] * row + shifts_E[e] * shifted for row, e in zip(x, expert_P, strict=True)]
    torch.testing.assert_close(found, torch.stack(expected))


class OnGPU:
    """What is asked of a weight, as if it lay on a GPU."""

    def __init__(self, *shape: int, kind: str = "cuda"):
        self.shape, self.device = shape, torch.device(kind)


def test_one_kernel_suits_on_hopper_in_bfloat16_with_sizes_of_sixteen_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    capability, dtype, enabled = [(9, 0)], [torch.bfloat16], [True]
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda of: capability[0] if of.type == "cuda" else None)
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda kind: enabled[0] and kind == "cuda")
    monkeypatch.setattr(torch, "get_autocast_dtype", lambda kind: dtype[0] if kind == "cuda" else None)

    def suits(*weights: OnGPU) -> bool:
        return one_kernel_suits(weights)  # type: ignore[arg-type]

    assert suits(OnGPU(8, 16), OnGPU(24))
    assert not suits(OnGPU(8, 16, kind="cpu"))
    assert not suits(OnGPU(8, 16), OnGPU(12))
    assert not suits(OnGPU(9, 16))
    for name, other in ((capability, (8, 9)), (dtype, torch.float16), (enabled, False)):
        (before,) = name
        name[0] = other  # type: ignore[index]
        assert not suits(OnGPU(8, 16))
        name[0] = before  # type: ignore[index]
    capability[0] = (10, 0)
    assert suits(OnGPU(8, 16))
