"""What distinguishes one DPE network from another: sizes and widths."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Branch = Literal["pose", "exp"]
"""A branch by its name in the checkpoint (`mlp_pose`/`dec_pose`, `mlp_exp`/`dec_exp`). Which of the two moves the
head is a property of the checkpoint: see `dpe_model.checkpoint.BranchRoles`."""

BRANCHES: tuple[Branch, Branch] = ("pose", "exp")

PUBLISHED_CHANNELS: Mapping[int, int] = {4: 512, 8: 512, 16: 512, 32: 512, 64: 256, 128: 128, 256: 64}
"""Feature channels by resolution in pixels, channel multiplier 1."""


@dataclass(frozen=True)
class NetworkConfig:
    """Sizes of a DPE network; the defaults are the published one (256 px, 69.1 M parameters).

    Attributes:
        size: side of the pictures in pixels, a power of two from 8.
        style_dim: length of the code `w`, 512 as published.
        motion_dim: motion directions, i.e. the length of `alpha`, 20 as published.
        channels: feature channels of encoder and generators by resolution, for 4, 8, ... size.
    """

    size: int = 256
    style_dim: int = 512
    motion_dim: int = 20
    channels: Mapping[int, int] = field(default_factory=lambda: dict(PUBLISHED_CHANNELS))

    def __post_init__(self) -> None:
        if self.size < 8 or self.size & (self.size - 1):
            raise ValueError(f"size: expected a power of two of at least 8, got {self.size}.")
        if not 0 < self.motion_dim <= self.style_dim:
            raise ValueError(f"motion_dim: expected 1..style_dim ({self.style_dim}), got {self.motion_dim}.")
        missing = [r for r in (4, *self.resolutions) if r not in self.channels]
        if missing:
            raise ValueError(f"channels: no width given for {missing} px.")
        object.__setattr__(self, "channels", {r: int(self.channels[r]) for r in (4, *self.resolutions)})

    @property
    def resolutions(self) -> tuple[int, ...]:
        """Resolutions of the features handed to the generators, ascending: 8, 16, ... size."""
        return tuple(2**i for i in range(3, self.size.bit_length()))

    @classmethod
    def published(cls, size: int = 256) -> NetworkConfig:
        """The published layout at another picture size, up to 256 px."""
        return cls(size=size, channels={r: c for r, c in PUBLISHED_CHANNELS.items() if r <= size})
