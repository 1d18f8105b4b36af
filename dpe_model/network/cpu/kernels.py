"""The forms in which a convolution's weight is held, each with its way to convolve."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from .convolution import WIDE, convolve, convolve_up, convolve_up_by_product, phases
from .products import Matrices, Stacked, to_keep
from .winograd import CHANNELS, SIZE, convolve3x3, tiles_at_a_time, transform_weight


class Kernel(ABC):
    """A weight [out, in, k, k] in some form."""

    @abstractmethod
    def __call__(self, x: Tensor, bias: Tensor | None = None, activate: bool = False) -> Tensor:
        """Convolution [+ bias] [+ leaky ReLU]: x [N, in, H, W] channels-last -> [N, out, H', W'] channels-last."""


class Scalable(Kernel):
    """A weight whose values are at hand."""

    def __init__(self, values: Tensor) -> None:
        self.values = values

    @abstractmethod
    def scaled(self, by_input: Tensor, by_output: Tensor) -> Kernel:
        """The kernel times factors [in] and [out], multiplied in float32."""

    @abstractmethod
    def settled(self) -> Kernel:
        """The kernel in the form that is fastest when it is never scaled."""


class Plain(Scalable):
    """As it is."""

    def __init__(self, values: Tensor, stride: int = 1, pad: int = 1) -> None:
        super().__init__(values)
        self.stride, self.pad = stride, pad

    def __call__(self, x: Tensor, bias: Tensor | None = None, activate: bool = False) -> Tensor:
        return convolve(x, self.values, bias, self.stride, (self.pad, self.pad), activate)

    def scaled(self, by_input: Tensor, by_output: Tensor) -> Plain:
        return Plain(scale(self.values, by_input, by_output), self.stride, self.pad)

    def settled(self) -> Plain:
        return self


class Winograd(Scalable):
    """A 3x3 kernel's transform [36, in, out]; stride 1, padding 1."""

    @classmethod
    def of(cls, weight: Tensor) -> Winograd:
        return cls(transform_weight(weight))

    def __call__(self, x: Tensor, bias: Tensor | None = None, activate: bool = False) -> Tensor:
        return convolve3x3(x, Stacked(self.values), bias, activate)

    def scaled(self, by_input: Tensor, by_output: Tensor) -> Winograd:
        return Winograd(self.values * (by_input[:, None] * by_output))

    def settled(self) -> SettledWinograd:
        return SettledWinograd(to_keep(self.values, tiles_at_a_time(self.values.shape[1])))


class SettledWinograd(Kernel):
    """As `Winograd`, its matrices in the form that is multiplied fastest."""

    def __init__(self, matrices: Matrices) -> None:
        self._matrices = matrices

    def __call__(self, x: Tensor, bias: Tensor | None = None, activate: bool = False) -> Tensor:
        return convolve3x3(x, self._matrices, bias, activate)


def choose(weight: Tensor, size: int, stride: int = 1, pad: int = 1) -> Plain | Winograd:
    """The fastest form of a weight [out, in, k, k] for maps of `size` px."""
    wide = weight.dtype == torch.float32 and weight.shape[1] >= CHANNELS and weight.shape[2] == 3
    return Winograd.of(weight) if wide and stride == 1 and size >= SIZE else Plain(weight, stride, pad)


class UpKernel(ABC):
    """The 3x3 weight of a transposed convolution with stride 2 in some form."""

    @abstractmethod
    def __call__(self, x: Tensor, style: Tensor) -> Tensor:
        """x [N, in, H, W] with its channels times `style` [N, in] -> [N, out, 2H + 1, 2W + 1] channels-last."""


class Phases(UpKernel):
    """Four kernels, one for each phase of the doubled grid; they, not the maps, are `styled` where asked for.

    Styled kernels take one picture at a time.
    """

    def __init__(self, weight: Tensor, styled: bool = False) -> None:
        self.values = phases(weight)
        self.styled = styled

    def __call__(self, x: Tensor, style: Tensor) -> Tensor:
        if self.styled:
            return convolve_up(x, [scale(p, style[0]) for p in self.values])
        return convolve_up(x * factors(style, x), self.values)


class Taps(UpKernel):
    """One matrix, all taps beside one another: [in, 9 out]."""

    def __init__(self, weight: Tensor) -> None:
        self.values = weight.permute(1, 2, 3, 0).flatten(1).contiguous()

    def __call__(self, x: Tensor, style: Tensor) -> Tensor:
        return convolve_up_by_product(x * factors(style, x), self.values)


def choose_up(weight: Tensor, size: int, alone: bool) -> UpKernel:
    """The fastest form of a weight [out, in, 3, 3] for maps of `size` px that come picture by picture, or not."""
    if weight.dtype == torch.float32 and weight.shape[1] >= WIDE:
        return Taps(weight)
    return Phases(weight, alone and styles_weight(weight.numel(), weight.shape[1], size))


def styles_weight(weight_values: int, channels: int, size: int) -> bool:
    """Whether it is less work to multiply a weight by the style than one picture's maps [channels, size, size]."""
    return weight_values <= channels * size**2


def factors(values: Tensor, like: Tensor) -> Tensor:
    """Factors [N, C] of the channels of maps [N, C, H, W]."""
    return values.to(like.dtype)[:, :, None, None]


def scale(weight: Tensor, by_input: Tensor, by_output: Tensor | None = None) -> Tensor:
    """A weight [out, in, k, k] times factors [in] and [out], multiplied in float32."""
    factor = by_input[None, :] if by_output is None else by_output[:, None] * by_input[None, :]
    return (weight * factor[:, :, None, None]).to(weight.dtype)
