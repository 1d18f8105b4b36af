"""Encoder and generators on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import Branch
from ..encoder import Encoder, Encoding, ResBlock
from ..generator import Generator, ToFlow, ToRGB
from ..generator import warp as warp_few
from ..layers import SLOPE, SQRT2, Blur, ConvLayer, EqualConv, EqualLinear, StyledConv
from .convolution import WIDE, Pair, contract, convolve, convolve_onto, convolve_up, convolve_up_by_taps, phases, taps
from .sampling import upsample, warp
from .winograd import CHANNELS, SIZE, convolve3x3, transform_weight

CACHE = 3 * 2**20
"""Levels whose maps take more bytes than this a picture are gone through picture by picture, the others together."""


class CPUNetwork:
    """A folded network's encoder and generators, run on the CPU.

    Weights are the network's own; only rearranged ones (phases of transposed convolutions, Winograd's transforms) are
    held in addition.
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
    bias: Tensor | None
    stride: int
    pad: int
    activate: bool
    blur: Blur | None
    transformed: Tensor | None = None

    @classmethod
    def of(cls, layer: ConvLayer, size: int = 0) -> _Conv:
        """A layer for maps of `size` px; 0 where the plain way will do."""
        weight = layer.conv.weight.data
        bias = None if layer.act is None else layer.act.bias.data.flatten()
        blur = cast(Blur, layer.get_submodule("0")) if layer.down else None
        return cls(weight, bias, layer.stride, layer.pad, layer.activate, blur, _transform(weight, size))

    def __call__(self, x: Tensor) -> Tensor:
        x = self.blurred(x)
        if self.transformed is not None:
            return convolve3x3(x, self.transformed, self.bias, self.activate)
        return convolve(x, self.weight, self.bias, self.stride, (self.pad, self.pad), self.activate)

    def blurred(self, x: Tensor) -> Tensor:
        """The input after the layer's blur."""
        if self.blur is None:
            return x
        kernel = self.blur.kernel.to(x.dtype).expand(x.shape[1], 1, 4, 4)
        pad: Pair = (self.blur.pad, self.blur.pad)
        return convolve(x, kernel, stride=self.blur.stride, padding=pad, groups=x.shape[1])


def _transform(weight: Tensor, size: int) -> Tensor | None:
    """The weight of a 3x3 convolution with stride 1 in Winograd's form, where that is faster for maps of `size` px."""
    worth = weight.dtype == torch.float32 and weight.shape[1] >= CHANNELS and size >= SIZE
    return transform_weight(weight) if worth else None


class _Encoder:
    def __init__(self, encoder: Encoder) -> None:
        first, *blocks, last = encoder.net_app.convs
        self.first = _Conv.of(cast(ConvLayer, first))
        size = 4 << len(blocks)
        self.blocks = [
            (_Conv.of(b.conv1, size >> i), _Conv.of(b.conv2), _Conv.of(b.skip))
            for i, b in enumerate(cast(list[ResBlock], list(blocks)))
        ]
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
        for i, (conv1, _, _) in enumerate(self.blocks):
            if not _is_large(conv1.weight.shape[1], size >> i, conv1.weight.dtype):
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


class _Styled:
    """What folded modulated convolutions with bias and activation have in common."""

    def __init__(self, layer: StyledConv) -> None:
        conv = layer.conv
        assert conv.demodulation is not None
        self.weight = conv.weight.data[0]
        self.modulation: EqualLinear = conv.modulation
        self.energy: Tensor = conv.demodulation.T
        self.bias: Tensor = layer.activate.bias.data.flatten()

    def __call__(self, x: Tensor, z: Tensor) -> Tensor:
        style = self.modulation(z)
        return self.convolve(x, style, torch.rsqrt(style.square() @ self.energy + 1e-8) * SQRT2)

    def convolve(self, x: Tensor, style: Tensor, demod: Tensor) -> Tensor:
        """The layer for factors [N, in] of its input's channels and [N, out] of its output's."""
        raise NotImplementedError

    def finish(self, y: Tensor, demod: Tensor) -> Tensor:
        """Demodulation, bias and activation of the convolution's maps, in place."""
        y = torch.addcmul(self.bias.view(1, -1, 1, 1), y, _factors(demod, y), out=y)
        return F.leaky_relu_(y, SLOPE)


class _StyledSame(_Styled):
    """A convolution to maps of the same size."""

    def __init__(self, layer: StyledConv, size: int) -> None:
        super().__init__(layer)
        self.transformed = _transform(self.weight, size)

    def convolve(self, x: Tensor, style: Tensor, demod: Tensor) -> Tensor:
        if _styles_weight(x, self.weight if self.transformed is None else self.transformed):
            return self._with_styled_weight(x, style[0], demod[0])
        x = x * _factors(style, x)
        if self.transformed is not None:
            return self.finish(convolve3x3(x, self.transformed), demod)
        return self.finish(convolve(x, self.weight, padding=(1, 1)), demod)

    def _with_styled_weight(self, x: Tensor, style: Tensor, demod: Tensor) -> Tensor:
        if self.transformed is not None:
            return convolve3x3(x, self.transformed * (style[:, None] * demod), self.bias, activate=True)
        return convolve(x, _scaled(self.weight, style, demod), self.bias, padding=(1, 1), activate=True)


class _StyledUp(_Styled):
    """A transposed convolution to maps of twice the size, and its blur."""

    def __init__(self, layer: StyledConv) -> None:
        super().__init__(layer)
        self.kernel: Tensor = layer.conv.blur.kernel
        wide = self.weight.dtype == torch.float32 and self.weight.shape[1] >= WIDE
        self.taps = taps(self.weight) if wide else None
        self.phases = () if wide else phases(self.weight)

    def convolve(self, x: Tensor, style: Tensor, demod: Tensor) -> Tensor:
        y = self._double(x, style)
        channels = y.shape[1]
        if len(y) == 1:
            kernel = (self.kernel * demod.view(-1, 1, 1, 1)).to(y.dtype)
            return convolve(y, kernel, self.bias, padding=(1, 1), activate=True, groups=channels)
        kernel = self.kernel.to(y.dtype).expand(channels, 1, 4, 4)
        return self.finish(convolve(y, kernel, padding=(1, 1), groups=channels), demod)

    def _double(self, x: Tensor, style: Tensor) -> Tensor:
        if self.taps is not None:
            return convolve_up_by_taps(x * _factors(style, x), self.taps)
        if _styles_weight(x, self.weight):
            return convolve_up(x, tuple(_scaled(p, style[0], None) for p in self.phases))
        return convolve_up(x * _factors(style, x), self.phases)


def _styles_weight(x: Tensor, weight: Tensor) -> bool:
    """Whether it is less work to multiply the weight by the style than the maps: of one picture, if they are larger."""
    return len(x) == 1 and weight.numel() <= x.numel()


def _factors(values: Tensor, like: Tensor) -> Tensor:
    """Factors [N, C] of the channels of maps [N, C, H, W]."""
    return values.to(like.dtype)[:, :, None, None]


def _scaled(weight: Tensor, style: Tensor, demod: Tensor | None) -> Tensor:
    """A weight [out, in, k, k] times its input's and output's factors, multiplied in float32."""
    factor = style[None, :] if demod is None else demod[:, None] * style[None, :]
    return (weight * factor[:, :, None, None]).to(weight.dtype)


@dataclass(frozen=True)
class _Heads:
    """The flow head and the RGB head of a level."""

    flow: ToFlow
    rgb: ToRGB

    def maps(self, x: Tensor, z: Tensor, previous: Tensor | None) -> Tensor:
        """Flow maps [N, 3, H, W] float32."""
        conv = self.flow.conv
        weight = (conv.weight.data[0, :, :, 0, 0].float() * conv.modulation(z)[:, None, :]).to(x.dtype)
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


class _Generator:
    def __init__(self, generator: Generator) -> None:
        self.constant = generator.input.input.data
        self.start = _StyledSame(generator.conv1, 4)
        convs = cast(list[StyledConv], list(generator.convs))
        self.levels = [
            (_StyledUp(up), _StyledSame(same, 8 << i))
            for i, (up, same) in enumerate(zip(convs[0::2], convs[1::2], strict=True))
        ]
        self.heads = [
            _Heads(cast(ToFlow, f), cast(ToRGB, r)) for f, r in zip(generator.to_flows, generator.to_rgbs, strict=True)
        ]

    def __call__(self, z: Tensor, features: Sequence[Tensor]) -> Tensor:
        n = len(z)
        large = (i for i, f in enumerate(features) if _is_large(f.shape[1], f.shape[2], f.dtype))
        joint = next(large, len(features))
        # The last level's features are looked at by the RGB head only, whose convolution may as well go first: three
        # colours to warp, and for a still source once.
        features = (*features[:-1], self.heads[-1].colours(features[-1]))
        x = self.constant.expand(n, -1, -1, -1).contiguous(memory_format=torch.channels_last)
        state = self._run(_State(self.start(x, z)), z, features, range(joint))
        if joint == len(features):
            assert state.rgb is not None
            return state.rgb
        size = features[-1].shape[2]
        images = z.new_empty((n, 3, size, size))
        for i in range(n):
            part = slice(i, i + 1)
            own = [f if len(f) == 1 else f[part] for f in features]
            done = self._run(state.picture(i), z[part], own, range(joint, len(features)))
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
        fetched, mask = warp_few(colours.expand(len(z), -1, -1, -1), maps)
        rgb = self.heads[i].picture(fetched * mask, state.rgb)
        if x.dtype != torch.float32:  # an overflow of x that tanh and sigmoid hide must not go unseen
            rgb.add_(maps, alpha=0.0)
        return _State(x, maps, rgb)
