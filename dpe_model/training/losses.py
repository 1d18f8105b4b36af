"""Losses: the published recipe's perceptual, adversarial and L1 terms, and those on pictures known to be true."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from ..checkpoint import load_safely
from ..errors import CheckpointError
from ..files import UNREADABLE, why_unreadable

logger = logging.getLogger(__name__)

SCALES = (1, 2, 4, 8)
"""Divisors of the perceptual loss's picture pyramid."""

VGG_BLOCKS = ((0,), (2, 5), (7, 10), (12, 14, 16, 19), (21, 23, 25, 28))
"""Convolutions of torchvision's `vgg19.features` by the block whose output is compared; 4, 9, 18, 27 are poolings."""

VGG_WIDTHS = {
    0: 64,
    2: 64,
    5: 128,
    7: 128,
    10: 256,
    12: 256,
    14: 256,
    16: 256,
    19: 512,
    21: 512,
    23: 512,
    25: 512,
    28: 512,
}
"""Output channels of those convolutions."""

POOL_BEFORE = (5, 10, 19, 28)
"""Convolutions that read a max-pooled map."""

VGG_WEIGHT = 10.0
"""Weight of each block in the perceptual loss."""


def gaussian_kernel(divisor: int) -> Tensor:
    """Kernel [k, k] that band-limits a picture before every `divisor`-th pixel is kept.

    sigma = (divisor - 1) / 2, k = 2 round(4 sigma) + 1, as published (after the first-order motion model).
    """
    sigma = (divisor - 1) / 2
    size = 2 * round(4 * sigma) + 1
    axis = torch.arange(size, dtype=torch.float32) - (size - 1) / 2
    line = torch.exp(-(axis**2) / (2 * sigma**2))
    kernel = line[:, None] * line[None, :]
    return kernel / kernel.sum()


class Pyramid(nn.Module):
    """Pictures [N, C, H, W] -> the same at full, half, quarter and eighth size."""

    def __init__(self, divisors: Sequence[int] = SCALES) -> None:
        super().__init__()
        self.divisors = tuple(divisors)
        for d in self.divisors:
            if d > 1:
                self.register_buffer(f"kernel_{d}", gaussian_kernel(d), persistent=False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """One picture a divisor, in their order."""
        return [images if d == 1 else self._reduce(images, d) for d in self.divisors]

    def _reduce(self, images: Tensor, divisor: int) -> Tensor:
        channels = images.shape[1]
        kernel = self.get_buffer(f"kernel_{divisor}").to(images.dtype)
        # Filtering only where a pixel is kept is the same as filtering everywhere and slicing.
        weight = kernel.expand(channels, 1, *kernel.shape)
        return F.conv2d(images, weight, stride=divisor, padding=kernel.shape[0] // 2, groups=channels)


class PerceptualLoss(nn.Module):
    """L1 between VGG19 features of a picture pyramid, each block weighted by 10, the target side detached.

    Weights are frozen. Pictures are clamped to -1..1 and normalised as ImageNet's.
    """

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.pyramid = Pyramid()
        self.features = nn.ModuleDict()
        channels = 3
        for index, out in VGG_WIDTHS.items():
            self.features[str(index)] = nn.Conv2d(channels, out, 3, padding=1)
            channels = out
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406])[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225])[:, None, None], persistent=False)
        self.requires_grad_(False)

    def blocks(self, images: Tensor) -> list[Tensor]:
        """Feature maps of the five blocks for pictures [N, 3, H, W]."""
        x = (images.clamp(-1.0, 1.0) * 0.5 + 0.5 - self.mean.float()) / self.std.float()
        x = x.to(self.features.get_parameter("0.weight").dtype)
        found = []
        for block in VGG_BLOCKS:
            for index in block:
                if index in POOL_BEFORE:
                    x = F.max_pool2d(x, 2)
                x = F.relu(self.features[str(index)](x))
            found.append(x)
        return found

    def describe(self, images: Tensor) -> list[list[Tensor]]:
        """Features by scale and block. A target compared with several pictures is described once."""
        return [self.blocks(level) for level in self.pyramid(images)]

    def compare(self, found: list[list[Tensor]], target: list[list[Tensor]]) -> Tensor:
        """The loss between two descriptions, a scalar float32."""
        terms = [
            F.l1_loss(f.float(), t.detach().float())
            for fs, ts in zip(found, target, strict=True)
            for f, t in zip(fs, ts, strict=True)
        ]
        return VGG_WEIGHT * torch.stack(terms).sum()

    def forward(self, images: Tensor, target: Tensor) -> Tensor:
        """The loss of pictures [N, 3, H, W] against others, a scalar."""
        with torch.no_grad():
            wanted = self.describe(target)
        return self.compare(self.describe(images), wanted)


def load_perceptual(path: str | Path | None) -> PerceptualLoss | None:
    """The perceptual loss with weights from a file, or None (and a message) where no file is named.

    Args:
        path: state dict of torchvision's vgg19 (`features.N.weight`, `features.N.bias`): .safetensors, or .pt/.pth,
            which is read without running any code in it.

    Raises:
        CheckpointError: the file is missing, unreadable, or of another network.
    """
    if path is None or str(path) == "":
        logger.warning(
            "Perceptual loss off: no VGG19 weights named. Set `vgg` in the configuration to a state dict of "
            "torchvision's vgg19 (for example vgg19-dcbb9e9d.pth) to train with it."
        )
        return None
    loss = PerceptualLoss()
    state = read_state_dict(Path(path))
    wanted = {k: v.shape for k, v in loss.state_dict().items()}
    wrong = [k for k, s in wanted.items() if k not in state or state[k].shape != s]
    if wrong:
        raise CheckpointError(
            f"{path}: expected the weights of torchvision's vgg19, but {wrong[0]} is missing or misshapen "
            f"({len(wrong)} of {len(wanted)} are). Name a vgg19 state dict."
        )
    loss.load_state_dict({k: state[k].float() for k in wanted})
    return loss


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Tensors by name from a .safetensors or a .pt/.pth file; nothing in the file is executed.

    Nested dictionaries come with dotted names (`gen.enc...`), anything that is no tensor is left out.

    Raises:
        CheckpointError: no such file, or not readable as tensors alone.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: expected a weights file, found none. Check the path.")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        loaded = load_safely(path)
    except UNREADABLE as error:
        raise CheckpointError(
            f"{path}: expected a file of tensors, could not read it as one ({why_unreadable(error)}). It may be "
            "truncated: download or copy it again."
        ) from error
    return flatten_tensors(loaded)


def flatten_tensors(tree: object, prefix: str = "") -> dict[str, Tensor]:
    """The tensors of nested dictionaries by dotted name."""
    if isinstance(tree, Tensor):
        return {prefix: tree}
    found: dict[str, Tensor] = {}
    if isinstance(tree, dict):
        for key, value in tree.items():
            found |= flatten_tensors(value, f"{prefix}.{key}" if prefix else str(key))
    return found


def generator_adversarial(logits: Tensor) -> Tensor:
    """Non-saturating loss of the generator on the discriminator's logits for its pictures."""
    return F.softplus(-logits).mean()


def discriminator_adversarial(real: Tensor, fake: Tensor) -> Tensor:
    """Non-saturating loss of the discriminator on its logits."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def gradient_penalty(logits: Tensor, images: Tensor) -> Tensor:
    """R1 (Mescheder et al. 2018): mean squared norm of the logits' gradient at real pictures."""
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return gradient.float().square().sum((1, 2, 3)).mean()


def weighted_l1(images: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean absolute difference of [N, C, H, W]; `weight` [N, 1, H, W] has mean 1 over each picture."""
    error = (images.float() - target.float()).abs()
    return error.mean() if weight is None else (error * weight).mean()


def pyramid_l1(images: Tensor, target: Tensor, weight: Tensor | None = None, levels: int = 4) -> Tensor:
    """L1 over box-filtered pictures of full, half, ... size, averaged over the levels.

    Coarse levels pull a picture into place while fine ones are still out of phase.
    """
    total = weighted_l1(images, target, weight)
    for _ in range(levels - 1):
        images, target = F.avg_pool2d(images, 2), F.avg_pool2d(target, 2)
        weight = None if weight is None else F.avg_pool2d(weight, 2)
        total = total + weighted_l1(images, target, weight)
    return total / levels


def edge_l1(images: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """L1 between horizontal and vertical differences of neighbouring pixels: punishes blur that plain L1 forgives."""
    error = images.float() - target.float()
    dx, dy = error.diff(dim=-1).abs(), error.diff(dim=-2).abs()
    if weight is None:
        return dx.mean() + dy.mean()
    return (dx * weight[..., 1:]).mean() + (dy * weight[..., 1:, :]).mean()
