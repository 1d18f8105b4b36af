"""Encoder: a picture to its code `w` and its features at every resolution."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .config import NetworkConfig
from .layers import ConvLayer, EqualConv


@dataclass(frozen=True)
class Encoding:
    """What the encoder knows of N pictures.

    Attributes:
        w: code [N, style_dim] float32.
        features: maps [N, C, r, r] at r = 8, 16, ... size, ascending; empty where only the code was asked for.
    """

    w: Tensor
    features: tuple[Tensor, ...]

    def __len__(self) -> int:
        return self.w.shape[0]

    def to(self, device: torch.device | str) -> Encoding:
        """The encoding on another device."""
        return Encoding(self.w.to(device), tuple(f.to(device) for f in self.features))

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the features, or of the code where there are none."""
        return self.features[0].dtype if self.features else self.w.dtype


def encoding_bytes(config: NetworkConfig, dtype: torch.dtype) -> int:
    """Memory that one picture's encoding holds, features in `dtype`, in bytes."""
    features = sum(config.channels[r] * r**2 for r in config.resolutions) * dtype.itemsize
    return features + config.style_dim * torch.float32.itemsize


class ResBlock(nn.Module):
    """Residual block that halves the resolution; the sum is divided by sqrt(2)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = ConvLayer(in_channels, in_channels, 3)
        # sqrt(2) of the activation times 1/sqrt(2) of the sum.
        self.conv2 = ConvLayer(in_channels, out_channels, 3, down=True, gain=1.0)
        self.skip = ConvLayer(in_channels, out_channels, 1, down=True, activate=False, gain=0.5**0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.conv1(x)) + self.skip(x)


class EncoderApp(nn.Module):
    """The appearance encoder, `enc.net_app` of the checkpoint."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        sizes = (*reversed(config.resolutions), 4)
        widths = [config.channels[r] for r in sizes]
        blocks: list[nn.Module] = [ConvLayer(3, widths[0], 1)]
        blocks += [ResBlock(a, b) for a, b in zip(widths[:-1], widths[1:], strict=True)]
        blocks.append(EqualConv(widths[-1], config.style_dim, 4))
        self.convs = nn.ModuleList(blocks)

    def forward(self, x: Tensor, with_features: bool = True) -> Encoding:
        features: list[Tensor] = []
        for block in self.convs[:-1]:
            x = block(x)
            if with_features:
                features.append(x)
        w = self.convs[-1](x).flatten(1).float()
        return Encoding(w, tuple(reversed(features[:-1])))


class Encoder(nn.Module):
    """`enc` of the checkpoint: pictures [N, 3, S, S] in -1..1 -> `Encoding`."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.net_app = EncoderApp(config)
        self.channels_last = False

    def forward(self, images: Tensor, with_features: bool = True) -> Encoding:
        dtype = next(self.parameters()).dtype
        images = images.to(dtype)
        if self.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        return self.net_app(images, with_features)


def expand_encoding(encoding: Encoding, count: int) -> Encoding:
    """A still's encoding [1, ...] as that of `count` frames, without copying."""
    if len(encoding) == count:
        return encoding
    if len(encoding) != 1:
        raise ValueError(f"expected an encoding of 1 or {count} pictures, got {len(encoding)}.")

    def wide(t: Tensor) -> Tensor:
        return t.expand(count, *t.shape[1:])

    return Encoding(wide(encoding.w), tuple(wide(f) for f in encoding.features))


def concat_encodings(encodings: list[Encoding]) -> Encoding:
    """Encodings of several chunks as one.

    Several are taken out of the list: what was joined goes before the next level is, so that the parts and the whole
    are never held in full at once.
    """
    if len(encodings) == 1:
        return encodings[0]
    codes = torch.cat([e.w for e in encodings])
    levels = [list(level) for level in zip(*(e.features for e in encodings), strict=True)]
    encodings.clear()
    return Encoding(codes, tuple(_joined(level) for level in levels))


def _joined(parts: list[Tensor]) -> Tensor:
    """Parts as one tensor; they are taken out of the list."""
    whole = torch.cat(parts)
    parts.clear()
    return whole
