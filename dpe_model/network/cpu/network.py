"""Encoder and generators on the CPU."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import Branch
from ..encoder import Encoder, Encoding, ResBlock
from ..generator import Generator, ToFlow, ToRGB
from ..layers import SLOPE, SQRT2, Blur, ConvLayer, EqualConv, EqualLinear, StyledConv, linear_by_row
from .convolution import Pair, contract, convolve, convolve_onto
from .kernels import Kernel, Scalable, choose, choose_up, factors, styles_weight
from .sampling import upsample, warp, warp_colours

CACHE = 3 * 2**20
"""Levels whose maps take more bytes than this a picture are gone through picture by picture, the others together."""


class CPUNetwork:
    """A folded network's encoder and generators, run on the CPU.

    Weights are the network's own; only those that a kernel holds in another form (`kernels.py`) are held in addition.
    """

    def __init__(self, encoder: Encoder, generators: dict[Branch, Generator]) -> None:
        self._encoder = _Encoder(encoder)
        self._generators = {branch: _Generator(g) for branch, g in generators.items()}

    def encode(self, images: Tensor, with_features: bool = True) -> Encoding:
        """See `DPENetwork.encode`."""
        return self._encoder(images, with_features)

    def render(self, z: Tensor, features: Sequence[Tensor], branch: Branch) -> Tensor:
        """Code `z` [N, style_dim] and features [N or 1, C, r, r] -> pictures [N, 3, S, S] float32, not clamped."""
        return self._generators[branch](z, features)


# Encoder


@dataclass(frozen=True)
class _Conv:
    """A folded convolution layer."""

    weight: Tensor
    kernel: Kernel
    bias: Tensor | None
    activate: bool
    blur: Blur | None

    @classmethod
    def of(cls, layer: ConvLayer, size: int) -> _Conv:
        """A layer for maps of `size` px."""
        bias = None if layer.act is None else layer.act.bias.data.flatten()
        blur = cast(Blur, layer.get_submodule("0")) if layer.down else None
        weight = layer.conv.weight.data
        kernel = choose(weight, size, layer.stride, layer.pad).settled()
        return cls(weight, kernel, bias, layer.activate, blur)

    def __call__(self, x: Tensor) -> Tensor:
        return self.kernel(self.blurred(x), self.bias, self.activate)

    def blurred(self, x: Tensor) -> Tensor:
        """The input after the layer's blur."""
        if self.blur is None:
            return x
        kernel = self.blur.kernel.to(x.dtype).expand(x.shape[1], 1, 4, 4)
        pad: Pair = (self.blur.pad, self.blur.pad)
        return convolve(x, kernel, stride=self.blur.stride, padding=pad, groups=x.shape[1])


class _Encoder:
    def __init__(self, encoder: Encoder) -> None:
        first, *middle, last = encoder.net_app.convs
        blocks = cast(list[ResBlock], middle)
        sizes = [4 << i for i in range(len(blocks), 0, -1)]
        self.first = _Conv.of(cast(ConvLayer, first), sizes[0])
        self.blocks = [
            (_Conv.of(b.conv1, size), _Conv.of(b.conv2, size), _Conv.of(b.skip, size))
            for b, size in zip(blocks, sizes, strict=True)
        ]
        self.channels = [b.conv1.conv.weight.shape[1] for b in blocks]
        self.last = cast(EqualConv, last).weight.data

    def __call__(self, images: Tensor, with_features: bool) -> Encoding:
        images = images.to(self.last.dtype, memory_format=torch.channels_last)
        alone = self._alone(images.shape[2])
        features: list[Tensor] = []
        if alone:
            x, features = self._large(images, alone, with_features)
        else:
            x = self.first(images)
        for block in self.blocks[alone:]:
            if with_features:
                features.append(x)
            x = _run_block(block, x)
        w = contract(x, self.last).float()
        return Encoding(w, tuple(reversed(features)))

    def _alone(self, size: int) -> int:
        """How many of the first blocks take one picture at a time."""
        for i, channels in enumerate(self.channels):
            if not _is_large(channels, size >> i, self.last.dtype):
                return i
        return len(self.blocks)

    def _large(self, images: Tensor, count: int, with_features: bool) -> tuple[Tensor, list[Tensor]]:
        """The first `count` blocks, picture by picture: their joint output, and their inputs where asked for."""
        outputs: list[Tensor] = []
        features: list[Tensor] = []
        for i in range(len(images)):
            x = self.first(images[i : i + 1])
            for j, block in enumerate(self.blocks[:count]):
                if with_features:
                    if i == 0:
                        features.append(_room(x, len(images)))
                    features[j][i] = x[0]
                x = _run_block(block, x)
            outputs.append(x)
        return _join(outputs), features


def _run_block(block: tuple[_Conv, _Conv, _Conv], x: Tensor) -> Tensor:
    conv1, conv2, skip = block
    return convolve_onto(conv2(conv1(x)), skip.blurred(x), skip.weight)


def _is_large(channels: int, size: int, dtype: torch.dtype) -> bool:
    return channels * size**2 * dtype.itemsize > CACHE


def _room(like: Tensor, count: int) -> Tensor:
    """Room for `count` maps like [1, C, H, W], channels-last."""
    _, c, h, w = like.shape
    return like.new_empty((count, h, w, c)).permute(0, 3, 1, 2)


def _join(maps: list[Tensor]) -> Tensor:
    return maps[0] if len(maps) == 1 else torch.cat(maps)


# Generator


class _Styled(ABC):
    """What folded modulated convolutions with bias and activation have in common."""

    def __init__(self, layer: StyledConv) -> None:
        conv = layer.conv
        assert conv.demodulation is not None
        self.modulation: EqualLinear = conv.modulation
        self.energy: Tensor = conv.demodulation
        self.bias: Tensor = layer.activate.bias.data.flatten()

    def __call__(self, x: Tensor, z: Tensor) -> Tensor:
        style = _modulate(self.modulation, z)
        return self.convolve(x, style, torch.rsqrt(linear_by_row(style.square(), self.energy) + 1e-8) * SQRT2)

    @abstractmethod
    def convolve(self, x: Tensor, style: Tensor, demod: Tensor) -> Tensor:
        """The layer for factors [N, in] of its input's channels and [N, out] of its output's."""

    def finish(self, y: Tensor, demod: Tensor) -> Tensor:
        """Demodulation, bias and activation of the convolution's maps, in place."""
        y = torch.addcmul(self.bias.view(1, -1, 1, 1), y, factors(demod, y), out=y)
        return F.leaky_relu_(y, SLOPE)


class _StyledSame(_Styled):
    """A convolution to maps of the same `size`, which come picture by picture (`alone`) or not."""

    def __init__(self, layer: StyledConv, size: int, alone: bool) -> None:
        super().__init__(layer)
        weight = layer.conv.weight.data[0]
        kernel = choose(weight, size)
        styled = alone and styles_weight(kernel.values.numel(), weight.shape[1], size)
        self.scalable: Scalable | None = kernel if styled else None
        self.kernel: Kernel = kernel if styled else kernel.settled()

    def convolve(self, x: Tensor, style: Tensor, demod: Tensor) -> Tensor:
        if self.scalable is not None:
            return self.scalable.scaled(style[0], demod[0])(x, self.bias, activate=True)
        return self.finish(self.kernel(x * factors(style, x)), demod)


class _StyledUp(_Styled):
    """A transposed convolution of maps of `size` to twice that, and its blur; picture by picture (`alone`) or not."""

    def __init__(self, layer: StyledConv, size: int, alone: bool) -> None:
        super().__init__(layer)
        self.kernel = choose_up(layer.conv.weight.data[0], size, alone)
        self.alone = alone
        self.blur: Tensor = layer.conv.blur.kernel

    def convolve(self, x: Tensor, style: Tensor, demod: Tensor) -> Tensor:
        y = self.kernel(x, style)
        channels = y.shape[1]
        if self.alone:
            blur = (self.blur * demod.view(-1, 1, 1, 1)).to(y.dtype)
            return convolve(y, blur, self.bias, padding=(1, 1), activate=True, groups=channels)
        blur = self.blur.to(y.dtype).expand(channels, 1, 4, 4)
        return self.finish(convolve(y, blur, padding=(1, 1), groups=channels), demod)


@dataclass(frozen=True)
class _Heads:
    """The flow head and the RGB head of a level."""

    flow: ToFlow
    rgb: ToRGB

    def maps(self, x: Tensor, z: Tensor, previous: Tensor | None) -> Tensor:
        """Flow maps [N, 3, H, W] float32."""
        conv = self.flow.conv
        weight = (conv.weight.data[0, :, :, 0, 0].float() * _modulate(conv.modulation, z)[:, None, :]).to(x.dtype)
        maps = _project(x, weight).add_(self.flow.bias)
        return maps if previous is None else maps.add_(upsample(previous))

    def colours(self, features: Tensor) -> Tensor:
        """The convolution of the RGB head alone: [N, C, H, W] -> [N, 3, H, W] float32."""
        weight = self.rgb.conv.conv.weight.data[None, :, :, 0, 0]
        return _project(features, weight.expand(len(features), -1, -1))

    def picture(self, colours: Tensor, previous: Tensor | None) -> Tensor:
        """What the RGB head makes of warped features' colours [N, 3, H, W], in place: RGB float32."""
        act = self.rgb.conv.act
        assert act is not None
        rgb = F.leaky_relu_(colours.add_(act.bias), SLOPE).add_(self.rgb.bias)
        return rgb if previous is None else rgb.add_(upsample(previous))


def _modulate(layer: EqualLinear, z: Tensor) -> Tensor:
    """Codes [N, style_dim] -> factors of a layer's input channels [N, in]."""
    return linear_by_row(z, layer.effective_weight(), layer.bias)


def _project(x: Tensor, weight: Tensor) -> Tensor:
    """1x1 convolution to a few maps: x [N, C, H, W] channels-last, weight [N, out, C] -> [N, out, H, W] float32."""
    n, c, h, w = x.shape
    pixels = x.permute(0, 2, 3, 1).reshape(n, h * w, c)
    maps = torch.stack([torch.mm(w, p.t()) for w, p in zip(weight, pixels, strict=True)])
    return maps.float().view(n, -1, h, w)


@dataclass(frozen=True)
class _State:
    """What goes from one level of a generator to the next, N pictures."""

    x: Tensor
    maps: Tensor | None = None
    rgb: Tensor | None = None

    def picture(self, i: int) -> _State:
        """One picture's part."""

        def part(t: Tensor | None) -> Tensor | None:
            return None if t is None else t[i : i + 1]

        return _State(self.x[i : i + 1], part(self.maps), part(self.rgb))


def _joint_levels(weights: Sequence[Tensor]) -> int:
    """How many of a generator's first levels take all pictures together, by the weights of their convolutions."""
    for i, weight in enumerate(weights):
        if _is_large(weight.shape[1], 8 << i, weight.dtype):
            return i
    return len(weights)


class _Generator:
    def __init__(self, generator: Generator) -> None:
        self.constant = generator.input.input.data
        self.start = _StyledSame(generator.conv1, 4, alone=False)
        convs = cast(list[StyledConv], list(generator.convs))
        pairs = list(zip(convs[0::2], convs[1::2], strict=True))
        self.joint = _joint_levels([same.conv.weight for _, same in pairs])
        self.levels = [
            (_StyledUp(up, 4 << i, alone=i >= self.joint), _StyledSame(same, 8 << i, alone=i >= self.joint))
            for i, (up, same) in enumerate(pairs)
        ]
        self.heads = [
            _Heads(cast(ToFlow, f), cast(ToRGB, r)) for f, r in zip(generator.to_flows, generator.to_rgbs, strict=True)
        ]

    def __call__(self, z: Tensor, features: Sequence[Tensor]) -> Tensor:
        n = len(z)
        # The last level's features are looked at by the RGB head only, whose convolution may as well go first: three
        # colours to warp, and for a still source once.
        features = (*features[:-1], self.heads[-1].colours(features[-1]))
        x = self.constant.expand(n, -1, -1, -1).contiguous(memory_format=torch.channels_last)
        state = self._run(_State(self.start(x, z)), z, features, range(self.joint))
        if self.joint == len(self.levels):
            assert state.rgb is not None
            return state.rgb
        size = features[-1].shape[2]
        images = z.new_empty((n, 3, size, size))
        for i in range(n):
            part = slice(i, i + 1)
            own = [f if len(f) == 1 else f[part] for f in features]
            done = self._run(state.picture(i), z[part], own, range(self.joint, len(self.levels)))
            assert done.rgb is not None
            images[i] = done.rgb[0]
        return images

    def _run(self, state: _State, z: Tensor, features: Sequence[Tensor], levels: range) -> _State:
        for i in levels:
            level = self._last_level if i == len(self.levels) - 1 else self._level
            state = level(i, state, z, features[i])
        return state

    def _styled(self, i: int, state: _State, z: Tensor) -> tuple[Tensor, Tensor]:
        """A level's maps after both convolutions, and its flow maps."""
        up, conv = self.levels[i]
        x = conv(up(state.x, z), z)
        return x, self.heads[i].maps(x, z, state.maps)

    def _level(self, i: int, state: _State, z: Tensor, features: Tensor) -> _State:
        x, maps = self._styled(i, state, z)
        warped, keep = warp(features, maps)
        rgb = self.heads[i].picture(self.heads[i].colours(warped), state.rgb)
        return _State(torch.addcmul(warped, x, keep, out=x), maps, rgb)

    def _last_level(self, i: int, state: _State, z: Tensor, colours: Tensor) -> _State:
        x, maps = self._styled(i, state, z)
        rgb = self.heads[i].picture(warp_colours(colours, maps), state.rgb)
        if x.dtype != torch.float32:  # an overflow of x that tanh and sigmoid hide must not go unseen
            rgb.add_(maps, alpha=0.0)
        return _State(x, maps, rgb)
