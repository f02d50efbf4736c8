"""Linear layers on rows of several experts, each with its own expert's weights.

P rows, sorted by expert; E experts. Rows are tensors (P, …, features).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional

from mofe.device import to_device


@dataclass(frozen=True)
class Groups:
    """The rows of each expert, sorted by expert. Tensors are on the rows' device."""

    order_P: Tensor
    """Order that sorts the rows."""
    expert_P: Tensor
    """Expert of each sorted row."""
    ends_E: Tensor
    """Position after the last row of each expert, int32."""
    sizes: Sequence[int] | None
    """Number of rows of each expert; None if the host does not need it."""

    @classmethod
    def of(cls, expert_P: Tensor, num_experts: int, device: torch.device, *, sized: bool = True) -> Self:
        """Group the rows by their experts.

        Args:
            expert_P: expert of each row, on the device or on the CPU.
            num_experts: E.
            device: device of the rows.
            sized: False if :func:`one_kernel_suits`. True gives the host the sizes of the groups, for which it waits
                for the device once, unless ``expert_P`` is on the CPU or there is only one group.
        """
        order_P = torch.argsort(expert_P, stable=True)
        ends_E = (expert_P <= torch.arange(num_experts, device=expert_P.device)[:, None]).sum(dim=1, dtype=torch.int32)
        sizes: Sequence[int] | None = None
        if num_experts == 1:
            sizes = [len(expert_P)]
        elif sized:
            sizes = ends_E.diff(prepend=ends_E.new_zeros(1)).tolist()
        order_P, expert_P, ends_E = (to_device(t, device) for t in (order_P, expert_P[order_P], ends_E))
        return cls(order_P, expert_P, ends_E, sizes)

    def linear(self, x: Tensor, weights_E: Sequence[Tensor], biases_E: Sequence[Tensor] | None = None) -> Tensor:
        """x W_eᵀ + b_e with each row's expert e; each weight is (out, in)."""
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
        """γ_e x + β_e by feature, with each row's expert e."""
        scaled = x * self._own(scales_E, x)
        return scaled if shifts_E is None else scaled + self._own(shifts_E, x)

    def _own(self, vectors_E: Sequence[Tensor], x: Tensor) -> Tensor:
        """The vector of each row's expert, in a shape that broadcasts over the rows."""
        if self.sizes is None:
            own = torch.stack(tuple(vectors_E))[self.expert_P]
        else:
            pairs = zip(vectors_E, self.sizes, strict=True)
            own = torch.cat([vector.expand(size, -1) for vector, size in pairs])
        return own.view(len(x), *[1] * (x.ndim - 2), -1)


def one_kernel_suits(weights: Sequence[Tensor]) -> bool:
    """Whether one kernel can multiply all groups, each with its own weights: on GPUs since Hopper, in bfloat16."""
    device = weights[0].device
    return (
        device.type == "cuda"
        and torch.is_autocast_enabled("cuda")
        and torch.get_autocast_dtype("cuda") == torch.bfloat16
        and torch.cuda.get_device_capability(device) >= (9, 0)
        and not any(size % 8 for weight in weights for size in weight.shape)  # the kernel reads 16 bytes at a time
    )
