"""Encoder and generators compiled by `torch.compile`, for GPUs: fewer, larger kernels between the convolutions.

Compiling takes a minute or more when a pass is first made, and needs what `torch.compile` needs (on CUDA: Triton).
Where it fails, the plain network goes on, with one warning.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..devices import is_out_of_memory
from .config import BRANCHES, Branch
from .encoder import Encoder, Encoding
from .generator import Generator

logger = logging.getLogger(__name__)

Compiler = Callable[[Callable[..., Any]], Callable[..., Any]]
"""Turns a function into a compiled one."""


def inductor(function: Callable[..., Any]) -> Callable[..., Any]:
    """PyTorch's own compiler; a pass with a break in its graph is an error."""
    return torch.compile(function, fullgraph=True)


class CompiledPasses:
    """The passes of a folded network, compiled when first made.

    Args:
        encoder, generators: the network's; their weights are used where they lie, and may move.
        compiler: how.
    """

    def __init__(self, encoder: Encoder, generators: dict[Branch, Generator], compiler: Compiler = inductor) -> None:
        def codes(images: Tensor) -> Tensor:
            return encoder(images, with_features=False).w

        def encoding(images: Tensor) -> tuple[Tensor, ...]:
            found = encoder(images)
            return found.w, *found.features

        self._codes = _Pass(codes, compiler)
        self._encoding = _Pass(encoding, compiler)
        self._generators = {branch: _Pass(generators[branch].forward, compiler) for branch in BRANCHES}

    def encode(self, images: Tensor, with_features: bool) -> Encoding:
        """As `Encoder.forward`."""
        _any_number(images)
        if not with_features:
            return Encoding(self._codes(images), ())
        w, *features = self._encoding(images)
        return Encoding(w, tuple(features))

    def render(self, z: Tensor, features: tuple[Tensor, ...], branch: Branch) -> Tensor:
        """As `Generator.forward` of a branch."""
        for tensor in (z, *features):
            _any_number(tensor)
        result: Tensor = self._generators[branch](z, features)
        return result


def _any_number(pictures: Tensor) -> None:
    """Compile for any number of pictures at once, not for each number that comes along; one alone is another case."""
    if len(pictures) > 1:
        torch._dynamo.maybe_mark_dynamic(pictures, 0)


class _Pass:
    """A function compiled when first called, or itself once that has failed."""

    def __init__(self, function: Callable[..., Any], compiler: Compiler) -> None:
        self._plain = function
        self._compiler: Compiler | None = compiler
        self._function = function

    def __call__(self, *args: Any) -> Any:
        if self._compiler is None:
            return self._plain(*args)
        try:
            if self._function is self._plain:
                self._function = self._compiler(self._plain)
            return self._function(*args)
        except Exception as error:  # a compiler fails in its own ways; whatever else is wrong, the plain pass says
            if is_out_of_memory(error):
                raise
            reason = " ".join(str(error).split())[:200]
        logger.warning("torch.compile failed (%s); going on without it.", reason)
        self._compiler = None
        return self._plain(*args)
