"""Float32 matrix products by the library that is faster here.

PyTorch asks MKL where it was built with it, which on processors not of its own maker can reach less than half of what
oneDNN does.
"""

from __future__ import annotations

import functools
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

ADVANTAGE = 1.4
"""How many times faster oneDNN has to be. Where MKL is slow it was 2.2 times: what else a machine is doing should not
change its answer."""
ROWS, IN, OUT = 256, 512, 1024
"""The product that tells."""
REPEATS = 25
TERMS = 256
"""Longest sum of products, where many are: oneDNN keeps a single one, whose rounding error grows with its length."""


def multiply(x: Tensor, matrix: Tensor) -> Tensor:
    """x [rows, in] times matrix [in, out] -> [rows, out]."""
    return _by_onednn(x, matrix.t()) if prefers_onednn() else torch.mm(x, matrix)


class Matrices(ABC):
    """Matrices [n, in, out], to be multiplied with rows of their own each."""

    @abstractmethod
    def multiply(self, x: Tensor) -> Tensor:
        """x [n, rows, in] -> [n, rows, out]."""

    @property
    @abstractmethod
    def out(self) -> int:
        """The matrices' columns."""


class Stacked(Matrices):
    """As one tensor."""

    def __init__(self, values: Tensor) -> None:
        self.values = values

    @property
    def out(self) -> int:
        return self.values.shape[2]

    def multiply(self, x: Tensor) -> Tensor:
        return torch.bmm(x, self.values)


class Packed(Matrices):
    """Each in the order that oneDNN wants for so many `rows`; for matrices that stay, since packing takes long."""

    def __init__(self, values: Tensor, rows: int) -> None:
        self._out = values.shape[2]
        self._parts = [[_packed(part, rows) for part in matrix.split(TERMS)] for matrix in values]

    @property
    def out(self) -> int:
        return self._out

    def multiply(self, x: Tensor) -> Tensor:
        y = x.new_empty((*x.shape[:2], self._out))
        for rows, parts, total in zip(x, self._parts, y, strict=True):
            first, *others = (_by_onednn(r, p) for r, p in zip(rows.split(TERMS, 1), parts, strict=True))
            total.copy_(first)
            for other in others:
                total.add_(other)
        return y


def to_keep(values: Tensor, rows: int) -> Matrices:
    """The faster form of matrices [n, in, out] that are multiplied many times, with about so many rows."""
    return Packed(values, rows) if prefers_onednn() else Stacked(values)


@functools.cache
def prefers_onednn() -> bool:
    """Whether oneDNN multiplies far faster here than PyTorch does by itself: timed once, in a twentieth of a second."""
    if not has_onednn():
        return False
    x, matrix = _example()
    plain, onednn = _seconds(lambda: torch.mm(x, matrix), lambda: _by_onednn(x, matrix.t()))
    return plain > ADVANTAGE * onednn


@functools.cache
def has_onednn() -> bool:
    """Whether this build's oneDNN multiplies float32 matrices, and rightly so: tried once.

    The operators are those the PyTorch compiler emits for CPUs; nothing promises them, so nothing depends on them.
    """
    if not torch.backends.mkldnn.is_available():
        return False
    x, matrix = _example()
    try:
        found = (_by_onednn(x, matrix.t()), Packed(matrix[None], ROWS).multiply(x[None])[0])
    except (RuntimeError, AttributeError, TypeError, NotImplementedError) as error:
        logger.debug("No matrix products by oneDNN (%s).", error)
        return False
    expected = torch.mm(x, matrix)
    return all(torch.allclose(y, expected, rtol=1e-4, atol=1e-4) for y in found)


def _example() -> tuple[Tensor, Tensor]:
    """Rows and a matrix whose products are about 1."""
    # Whatever the default device and dtype are.
    x = torch.linspace(-1, 1, ROWS * IN, dtype=torch.float32, device="cpu").sin().view(ROWS, IN)
    matrix = torch.linspace(0, 1e4, IN * OUT, dtype=torch.float32, device="cpu").cos().view(IN, OUT)
    return x, matrix / IN**0.5


def _by_onednn(x: Tensor, weight: Tensor) -> Tensor:
    """x [rows, in] times the transpose of weight [out, in]."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")


def _packed(matrix: Tensor, rows: int) -> Tensor:
    """A matrix [in, out] as a weight for `_by_onednn`."""
    return torch.ops.mkldnn._reorder_linear_weight(matrix.t().contiguous(), rows)


def _seconds(*ways: Callable[[], object]) -> list[float]:
    """The fastest of some repeats of each, taken in turn, so that a busy moment meets them all."""
    best = [float("inf")] * len(ways)
    for _ in range(REPEATS):
        for i, run in enumerate(ways):
            start = time.perf_counter()
            run()
            best[i] = min(best[i], time.perf_counter() - start)
    return best
