"""Building blocks after StyleGAN2 (Karras et al. 2020), as the published network uses them.

Two things make them fast without changing what is computed:

* *Folding.* Equalised learning rate scales a weight by 1/sqrt(fan_in), the activation scales its output by sqrt(2),
  a residual sum by 1/sqrt(2). The leaky ReLU commutes with positive factors, so all of them are one factor on weight
  and bias: computed on the fly in training, multiplied in once for inference (`fold`).
* *Modulation of activations.* A convolution with the weight `W * style` equals a convolution of `x * style` with the
  shared `W`; demodulation is a factor on the output. No weights per sample, any batch size.

The blur is the outer product of (1, 3, 3, 1), normalised; it runs as one depthwise convolution, with the stride of the
sampling that follows it.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SQRT2 = math.sqrt(2.0)
SLOPE = 0.2


def blur_kernel(factor: float = 1.0) -> Tensor:
    """The 4x4 blur kernel, summing to `factor`: 4 where it follows an up-sampling, else 1."""
    taps = (1.0, 3.0, 3.0, 1.0)
    scale = factor / sum(taps) ** 2
    # Not computed by PyTorch: on the meta device that loads its compiler.
    return torch.tensor([[a * b * scale for b in taps] for a in taps])


def normal(*shape: int) -> Tensor:
    """Standard normal values to begin a training with.

    On the meta device, which has none, they are not drawn: that would load PyTorch's compiler, two seconds' work.
    """
    return torch.empty(shape) if torch.empty(0).is_meta else torch.randn(shape)


def is_channels_last(x: Tensor) -> bool:
    """Whether the channels of a pixel lie side by side in memory; also true of a picture expanded along the batch."""
    return x.ndim == 4 and x.stride(1) == 1 and x.shape[1] > 1


class Folding(nn.Module):
    """A layer whose constant factors can be multiplied into its weights once, for inference."""

    folded: bool = False

    def fold(self) -> None:
        """Multiply the constant factors into the weights. The state dict no longer is the checkpoint's afterwards."""
        if not self.folded:
            with torch.no_grad():
                self._fold()
            self.folded = True

    def _fold(self) -> None:
        raise NotImplementedError


class Blur(nn.Module):
    """Depthwise 4x4 blur [N, C, H, W] with zero padding; `up` = 2 spreads the pixels first (transposed).

    The kernel is a buffer under its checkpoint name; a state dict may leave it out.
    """

    kernel: Tensor

    def __init__(self, pad: int, stride: int = 1, up: int = 1, factor: float = 1.0) -> None:
        super().__init__()
        self.pad, self.stride, self.up, self.factor = pad, stride, up, factor
        self.register_buffer("kernel", blur_kernel(factor))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        state_dict.setdefault(prefix + "kernel", blur_kernel(self.factor))
        super()._load_from_state_dict(state_dict, prefix, *args)

    def forward(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        kernel = self.kernel.to(x.dtype).expand(channels, 1, 4, 4)
        if self.up == 2:
            return F.conv_transpose2d(x, kernel, stride=2, padding=self.pad, groups=channels)
        if self.stride == 2 and x.requires_grad and x.device.type == "cpu":
            # The gradient of a strided depthwise convolution is six times slower on CPUs than this one's.
            return F.conv2d(x, kernel, padding=self.pad, groups=channels)[:, :, ::2, ::2]
        return F.conv2d(x, kernel, stride=self.stride, padding=self.pad, groups=channels)


def up_blur(pad: int = 1, up: int = 1) -> Blur:
    """A blur with the x4 kernel of an up-sampling: `up` = 2 doubles the size, `up` = 1 follows a transposed conv."""
    return Blur(pad, up=up, factor=4.0)


def linear_by_row(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """As `F.linear` of x [N, in], each row by itself: how a matrix product rounds depends on its number of rows."""
    if bias is None:
        return torch.stack([torch.mv(weight, row) for row in x])
    return torch.stack([torch.addmv(bias, weight, row) for row in x])


class EqualLinear(Folding):
    """Linear layer with equalised learning rate: x [..., in] -> [..., out]."""

    def __init__(self, in_dim: int, out_dim: int, bias_init: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(normal(out_dim, in_dim))
        self.bias = nn.Parameter(torch.full((out_dim,), bias_init))
        self.scale = 1.0 / math.sqrt(in_dim)

    def _fold(self) -> None:
        self.weight.mul_(self.scale)

    def effective_weight(self) -> Tensor:
        """The weight that multiplies the input, [out, in]."""
        return self.weight if self.folded else self.weight * self.scale

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.effective_weight(), self.bias)


class ConvWeight(nn.Module):
    """Holds the weight [out, in, k, k] of an equalised convolution under its checkpoint name."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(normal(out_channels, in_channels, kernel, kernel))
        self.scale = 1.0 / math.sqrt(in_channels * kernel**2)


class EqualConv(Folding):
    """A bare equalised convolution without padding, bias or activation: x [N, in, H, W] -> [N, out, H-k+1, W-k+1]."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(normal(out_channels, in_channels, kernel, kernel))
        self.scale = 1.0 / math.sqrt(in_channels * kernel**2)

    def _fold(self) -> None:
        self.weight.mul_(self.scale)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight if self.folded else self.weight * self.scale)


class ActivationBias(nn.Module):
    """Holds the bias [1, C, 1, 1] of an activation under its checkpoint name."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1, channels, 1, 1))


class ConvLayer(Folding):
    """[blur,] convolution [, bias and activation]: leaky_relu(conv(x) + bias, 0.2) * gain.

    Args:
        down: blur and stride 2.
        activate: with bias and leaky ReLU; else a plain convolution times `gain`.
        gain: factor on the output; sqrt(2) is the published activation's.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        down: bool = False,
        activate: bool = True,
        gain: float = SQRT2,
    ) -> None:
        super().__init__()
        parts: list[nn.Module] = []
        self.stride, self.pad = 1, kernel // 2
        if down:
            # The 1x1 convolution of a skip only reads every second pixel: blur just those.
            pointwise = kernel == 1
            parts.append(Blur(pad=(2 + kernel - 1) // 2, stride=2 if pointwise else 1))
            self.stride, self.pad = (1 if pointwise else 2), 0
        parts.append(ConvWeight(in_channels, out_channels, kernel))
        if activate:
            parts.append(ActivationBias(out_channels))
        for i, part in enumerate(parts):
            self.add_module(str(i), part)
        self.down, self.activate, self.gain = down, activate, gain

    @property
    def conv(self) -> ConvWeight:
        """The convolution's weight holder."""
        return self._part("1" if self.down else "0")  # type: ignore[return-value]

    @property
    def act(self) -> ActivationBias | None:
        """The activation's bias holder."""
        return self._part("2" if self.down else "1") if self.activate else None  # type: ignore[return-value]

    def _part(self, name: str) -> nn.Module:
        # Not get_submodule, which the compiler of PyTorch 2.4 cannot follow.
        return getattr(self, name)

    def _fold(self) -> None:
        self.conv.weight.mul_(self.conv.scale * self.gain)
        if self.act is not None:
            self.act.bias.mul_(self.gain)

    def forward(self, x: Tensor) -> Tensor:
        weight: Tensor = self.conv.weight
        bias: Tensor | None = None if self.act is None else self.act.bias.flatten()
        if not self.folded:
            weight = weight * (self.conv.scale * self.gain)
            bias = None if bias is None else bias * self.gain
        if self.down:
            x = self._part("0")(x)
        x = F.conv2d(x, weight, bias, stride=self.stride, padding=self.pad)
        return F.leaky_relu_(x, SLOPE) if self.activate else x


class ModulatedConv(Folding):
    """Convolution whose input channels are weighted by a style, then demodulated (StyleGAN2, section 2).

    `x` [N, in, H, W], style code `z` [N, style_dim] -> [N, out, H or 2H, W or 2W]. `gain` is a factor on the output,
    and `bias` [1, out, 1, 1] is added to that.
    """

    demodulation: Tensor | None

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, style_dim: int, up: bool = False, gain: float = 1.0
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(normal(1, out_channels, in_channels, kernel, kernel))
        self.modulation = EqualLinear(style_dim, in_channels, bias_init=1.0)
        self.scale = 1.0 / math.sqrt(in_channels * kernel**2)
        self.up, self.gain, self.pad = up, gain, kernel // 2
        if up:
            self.blur = up_blur()
        self.register_buffer("demodulation", None, persistent=False)

    def _energy(self, weight: Tensor) -> Tensor:
        """Squared weights summed over the kernel, [out, in]."""
        return weight.float().square().sum((2, 3))

    def _fold(self) -> None:
        self.weight.mul_(self.scale)
        self.demodulation = self._energy(self.weight[0])

    def to_channels_last(self) -> None:
        """Lay the weight out for channels-last convolutions."""
        weight = self.weight.data[0]
        # A transposed convolution takes [in, out, k, k]: that view of the weight is the one to be channels-last.
        if self.up:
            weight = weight.transpose(0, 1).contiguous(memory_format=torch.channels_last).transpose(0, 1)
        else:
            weight = weight.contiguous(memory_format=torch.channels_last)
        self.weight.data = weight[None]

    def forward(self, x: Tensor, z: Tensor, bias: Tensor) -> Tensor:
        weight = self.weight[0] if self.folded else self.weight[0] * self.scale
        energy = self._energy(weight) if self.demodulation is None else self.demodulation
        style = self.modulation(z)
        demod = torch.rsqrt(style.square() @ energy.T + 1e-8) * self.gain
        x = x * style.to(x.dtype)[:, :, None, None]
        if self.up:
            x = self.blur(F.conv_transpose2d(x, weight.transpose(0, 1), stride=2))
        else:
            x = F.conv2d(x, weight, padding=self.pad)
        return torch.addcmul(bias, x, demod.to(x.dtype)[:, :, None, None])


class Unused(nn.Module):
    """Parameters that a checkpoint carries and no output depends on (noise strengths, the 4 px RGB head)."""

    def __init__(self, **shapes: tuple[int, ...]) -> None:
        super().__init__()
        for name, shape in shapes.items():
            setattr(self, name, nn.Parameter(torch.zeros(shape), requires_grad=False))


class StyledConv(Folding):
    """Modulated convolution, bias, activation: one layer of a generator. Noise is never added."""

    def __init__(self, in_channels: int, out_channels: int, style_dim: int, up: bool = False) -> None:
        super().__init__()
        self.conv = ModulatedConv(in_channels, out_channels, 3, style_dim, up=up, gain=SQRT2)
        self.noise = Unused(weight=(1,))
        self.activate = ActivationBias(out_channels)

    def _fold(self) -> None:
        self.activate.bias.mul_(SQRT2)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        bias = self.activate.bias if self.folded else self.activate.bias * SQRT2
        return F.leaky_relu_(self.conv(x, z, bias), SLOPE)


class ModulatedProjection(Folding):
    """Modulated 1x1 convolution to a few maps, without demodulation: x [N, C, H, W], z -> [N, out, H, W].

    With so few outputs the modulated weights are the smaller operand, so here they are made per sample.
    """

    def __init__(self, in_channels: int, out_channels: int, style_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(normal(1, out_channels, in_channels, 1, 1))
        self.modulation = EqualLinear(style_dim, in_channels, bias_init=1.0)
        self.scale = 1.0 / math.sqrt(in_channels)

    def _fold(self) -> None:
        self.weight.mul_(self.scale)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        weight = self.weight[0, :, :, 0, 0] if self.folded else self.weight[0, :, :, 0, 0] * self.scale
        weight = (weight.float() * self.modulation(z)[:, None, :]).to(x.dtype)
        n, _, h, w = x.shape
        if is_channels_last(x):
            maps = torch.bmm(x.permute(0, 2, 3, 1).reshape(n, h * w, -1), weight.transpose(1, 2))
            return maps.reshape(n, h, w, -1).permute(0, 3, 1, 2)
        return torch.bmm(weight, x.reshape(n, -1, h * w)).reshape(n, -1, h, w)
