"""Motion editing: from the code `w` to twenty numbers of motion, and from those to the code of a branch.

No activation stands between the linear layers, so `w -> alpha` and `alpha -> branch code` are affine maps. For
inference each is collapsed to one matrix and one vector, computed in float64.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from .config import BRANCHES, Branch
from .layers import EqualLinear, linear_by_row, normal

Affine = tuple[Tensor, Tensor]
"""Matrix [out, in] and offset [out]."""


class Direction(nn.Module):
    """The motion directions, `dir` of the checkpoint: weight [style_dim, motion_dim]."""

    def __init__(self, style_dim: int, motion_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(normal(style_dim, motion_dim))

    def basis(self) -> Tensor:
        """Q [style_dim, motion_dim]: the orthonormal factor of weight + 1e-8, float32, on the weight's device.

        Its signs are those of LAPACK's Householder decomposition, hence the detour over the CPU.
        """
        weight = self.weight.float().cpu() + 1e-8
        return torch.linalg.qr(weight).Q.to(self.weight.device)


def linear_stack(*dims: int) -> nn.Sequential:
    """Equalised linear layers without activations between them."""
    return nn.Sequential(*(EqualLinear(a, b) for a, b in zip(dims[:-1], dims[1:], strict=True)))


def collapse(layers: nn.Sequential) -> Affine:
    """The affine map of a stack of linear layers, float64."""
    matrix: Tensor | None = None
    offset: Tensor | None = None
    for layer in layers:
        linear = cast(EqualLinear, layer)
        weight, bias = linear.effective_weight().detach().double(), linear.bias.detach().double()
        matrix = weight if matrix is None else weight @ matrix
        offset = bias if offset is None else weight @ offset + bias
    assert matrix is not None and offset is not None
    return matrix, offset


class CollapsedMotion(nn.Module):
    """The affine maps of motion editing as buffers (float32), derived from a checkpoint and not part of it."""

    def __init__(self, motion: Affine, codes: dict[Branch, Affine], basis: Tensor) -> None:
        super().__init__()
        maps: dict[str, Affine] = {"motion": motion, **{str(k): v for k, v in codes.items()}}
        for name, (matrix, offset) in maps.items():
            self.register_buffer(f"{name}_matrix", matrix.float(), persistent=False)
            self.register_buffer(f"{name}_offset", offset.float(), persistent=False)
        self.register_buffer("basis", basis.float(), persistent=False)

    def apply_map(self, name: str, x: Tensor) -> Tensor:
        """Apply the map called `name`: x [N, in] -> [N, out]."""
        matrix, offset = self.get_buffer(f"{name}_matrix"), self.get_buffer(f"{name}_offset")
        # As in all that runs on the CPU, a frame's numbers shall not depend on how many frames there are.
        apply = linear_by_row if x.device.type == "cpu" else nn.functional.linear
        return apply(x.float(), matrix, offset)

    @classmethod
    def of(cls, mlp: nn.Sequential, direction: Direction, branches: dict[Branch, nn.Sequential]) -> CollapsedMotion:
        """Collapse the stacks of a network; `alpha -> code` includes the basis Q."""
        basis = direction.basis().detach()
        codes: dict[Branch, Affine] = {}
        for name in BRANCHES:
            matrix, offset = collapse(branches[name])
            codes[name] = (matrix @ basis.double(), offset)
        return cls(collapse(mlp), codes, basis)
