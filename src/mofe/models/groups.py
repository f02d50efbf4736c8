"""Rows of several experts, each through its own expert's weights.

P rows, sorted by expert; E experts. Rows are tensors (P, …, features).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional

from mofe.device import sent


@dataclass(frozen=True)
class Groups:
    """Which row is whose, once they are sorted by expert."""

    order_P: Tensor
    """Sorts the rows; on their device."""
    expert_P: Tensor
    """The expert of each sorted row; on their device."""
    ends_E: Tensor
    """The row after the last of each expert, int32; on their device."""
    sizes: Sequence[int] | None
    """How many rows each expert has; None where the host need not know it."""

    @classmethod
    def of(cls, expert_P: Tensor, num_experts: int, device: torch.device, *, sized: bool = True) -> Self:
        """The groups of rows on a device, of which each has an expert.

        Args:
            expert_P: on the device, or on the CPU.
            num_experts: E.
            device: of the rows.
            sized: False where :func:`one_kernel_suits`. Else the host has to know the sizes of the groups: for them it
                waits for the device, once; but not where ``expert_P`` is on the CPU, or there is only one group.
        """
        order_P = torch.argsort(expert_P, stable=True)
        ends_E = (expert_P <= torch.arange(num_experts, device=expert_P.device)[:, None]).sum(dim=1, dtype=torch.int32)
        sizes: Sequence[int] | None = None
        if num_experts == 1:
            sizes = [len(expert_P)]
        elif sized:
            sizes = ends_E.diff(prepend=ends_E.new_zeros(1)).tolist()
        order_P, expert_P, ends_E = (sent(t, device) for t in (order_P, expert_P[order_P], ends_E))
        return cls(order_P, expert_P, ends_E, sizes)

    def linear(self, x: Tensor, weights_E: Sequence[Tensor], biases_E: Sequence[Tensor] | None = None) -> Tensor:
        """x W_eᵀ + b_e of each row's expert e; the weights are (out, in) each."""
        if self.sizes is not None:
            biases: Sequence[Tensor | None] = biases_E or [None] * len(weights_E)
            parts = zip(x.split(self.sizes), weights_E, biases, strict=True)
            return torch.cat([functional.linear(*part) for part in parts])
        rows = x.reshape(-1, x.shape[-1]).bfloat16()
        weight_EIO = torch.stack(tuple(weights_E)).bfloat16().transpose(1, 2)
        product = functional.grouped_mm(rows, weight_EIO, offs=self.ends_E * (len(rows) // len(x)))
        product = product.view(*x.shape[:-1], -1)
        return product if biases_E is None else product + self._own(biases_E, x).bfloat16()

    def affine(self, x: Tensor, scales_E: Sequence[Tensor], shifts_E: Sequence[Tensor] | None = None) -> Tensor:
        """γ_e x + β_e, by feature, of each row's expert e."""
        scaled = x * self._own(scales_E, x)
        return scaled if shifts_E is None else scaled + self._own(shifts_E, x)

    def _own(self, vectors_E: Sequence[Tensor], x: Tensor) -> Tensor:
        """Each row's vector, to be broadcast over what the rows hold."""
        if self.sizes is None:
            own = torch.stack(tuple(vectors_E))[self.expert_P]
        else:
            pairs = zip(vectors_E, self.sizes, strict=True)
            own = torch.cat([vector.expand(size, -1) for vector, size in pairs])
        return own.view(len(x), *[1] * (x.ndim - 2), -1)


def one_kernel_suits(weights: Sequence[Tensor]) -> bool:
    """Whether one kernel can multiply all groups, each by its own weights: on GPUs from Hopper on, in bfloat16."""
    device = weights[0].device
    return (
        device.type == "cuda"
        and torch.is_autocast_enabled("cuda")
        and torch.get_autocast_dtype("cuda") == torch.bfloat16
        and torch.cuda.get_device_capability(device) >= (9, 0)
        and not any(size % 8 for weight in weights for size in weight.shape)  # it reads 16 bytes at a time
    )
