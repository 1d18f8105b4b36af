"""Generator: warps the source's features level by level and paints what the warp cannot bring."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..devices import is_apple
from .config import NetworkConfig
from .layers import ConvLayer, ModulatedProjection, StyledConv, Unused, is_channels_last, normal, up_blur


class ConstantInput(nn.Module):
    """The learned 4x4 start of a generator."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.input = nn.Parameter(normal(1, channels, 4, 4))


class ToFlow(nn.Module):
    """Flow head: where to fetch each feature from, and how far to trust what was fetched.

    Three modulated maps, added to the previous level's: two offsets through tanh, in units of half the picture, and a
    mask through a sigmoid.
    """

    def __init__(self, channels: int, style_dim: int) -> None:
        super().__init__()
        self.upsample = up_blur(up=2)
        self.conv = ModulatedProjection(channels, 3, style_dim)
        self.bias = nn.Parameter(torch.zeros(1, 3, 1, 1))

    def forward(self, x: Tensor, z: Tensor, previous: Tensor | None) -> Tensor:
        """Maps [N, 3, H, W] float32 before tanh and sigmoid; `previous` is the level below's, half the size."""
        maps = self.conv(x, z).float() + self.bias
        return maps if previous is None else maps + self.upsample(previous)


def identity_grid(size: int, device: torch.device) -> Tensor:
    """Grid [1, size, size, 2] (x, y) from linspace(-1, 1, size).

    Sampling reads it with align_corners=False. The mismatch is part of the trained model.
    """
    axis = torch.linspace(-1.0, 1.0, size, device=device)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return torch.stack((x, y), -1)[None]


def warp(features: Tensor, maps: Tensor) -> tuple[Tensor, Tensor]:
    """Fetch features along a flow.

    Args:
        features: [N, C, H, W].
        maps: flow head output [N, 3, H, W] float32.

    Returns:
        The fetched features [N, C, H, W] and the mask [N, 1, H, W], in the features' dtype and memory order.
    """
    grid = torch.tanh(maps[:, :2]).permute(0, 2, 3, 1) + identity_grid(maps.shape[-1], maps.device)
    mask = torch.sigmoid(maps[:, 2:3])
    # Coordinates need float32: half precision cannot tell neighbouring pixels apart at 256 px.
    exact = features.float()
    if is_apple(features.device):  # its sampler reads one order only, and takes any other for that
        exact, grid = exact.contiguous(), grid.contiguous()
    sampled = F.grid_sample(exact, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    order = torch.channels_last if is_channels_last(features) else torch.contiguous_format
    return sampled.to(features.dtype, memory_format=order), mask.to(features.dtype)


class ToRGB(nn.Module):
    """RGB head: 1x1 convolution, activation, bias, added to the previous level's picture."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.upsample = up_blur(up=2)
        self.conv = ConvLayer(channels, 3, 1)
        self.bias = nn.Parameter(torch.zeros(1, 3, 1, 1))

    def forward(self, x: Tensor, previous: Tensor | None) -> Tensor:
        """Picture [N, 3, H, W] float32, about -1..1."""
        rgb = self.conv(x).float() + self.bias
        return rgb if previous is None else rgb + self.upsample(previous)


class Generator(nn.Module):
    """One branch's generator, `dec_pose` or `dec_exp` of the checkpoint."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        style, width = config.style_dim, config.channels[4]
        self.input = ConstantInput(width)
        self.conv1 = StyledConv(width, width, style)
        self.to_rgb1 = Unused(bias=(1, 3, 1, 1))
        self.to_rgb1.conv = nn.ModuleList([Unused(weight=(3, width, 1, 1)), Unused(bias=(1, 3, 1, 1))])
        self.convs, self.to_rgbs, self.to_flows = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for resolution in config.resolutions:
            out = config.channels[resolution]
            self.convs.append(StyledConv(width, out, style, up=True))
            self.convs.append(StyledConv(out, out, style))
            self.to_flows.append(ToFlow(out, style))
            self.to_rgbs.append(ToRGB(out))
            width = out

    def forward(self, z: Tensor, features: tuple[Tensor, ...]) -> Tensor:
        """Render pictures.

        Args:
            z: code [N, style_dim] float32: the source's `w` plus a branch code.
            features: the source's features [N or 1 expanded, C, r, r] at r = 8 ... size.

        Returns:
            Pictures [N, 3, size, size] float32, about -1..1, not clamped.
        """
        rgb, maps = self.render_levels(z, features)
        if torch.is_grad_enabled() or features[0].dtype == torch.float32:
            return rgb
        # An overflow that tanh and sigmoid hid becomes a NaN. Apple's GPUs add nothing where the factor is 0.
        if is_apple(rgb.device):
            return rgb.masked_fill_(~torch.isfinite(maps[-1]), float("nan"))
        return rgb.add_(maps[-1], alpha=0.0)

    def render_levels(self, z: Tensor, features: tuple[Tensor, ...]) -> tuple[Tensor, list[Tensor]]:
        """Like `forward`, with each level's flow maps [N, 3, r, r] (before tanh and sigmoid) for supervision."""
        x = self.input.input.expand(z.shape[0], -1, -1, -1).to(features[0].dtype)
        if is_channels_last(features[0]):
            x = x.contiguous(memory_format=torch.channels_last)
        x = self.conv1(x, z)
        maps: list[Tensor] = []
        rgb: Tensor | None = None
        for i, level in enumerate(features):
            x = self.convs[2 * i](x, z)
            x = self.convs[2 * i + 1](x, z)
            maps.append(self.to_flows[i](x, z, maps[-1] if maps else None))
            fetched, mask = warp(level, maps[-1])
            warped = fetched * mask
            rgb = self.to_rgbs[i](warped, rgb)
            x = torch.addcmul(warped, x, 1.0 - mask)
        assert rgb is not None
        return rgb, maps
