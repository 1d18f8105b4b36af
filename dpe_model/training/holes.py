"""What a generator shows where its mask closes.

Pictures are made of fetched features alone, so where the source has nothing to fetch, as inside a mouth that opens, the
mask is all there is to paint with. In networks that `growth.py` starts, a closed mask leaves grey, as no features mean
the middle of the range of colours. Black is what a mouth wants.

The bundled model's expression branch ends with such a stage: its card has the figures.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import CheckpointError
from ..network import BRANCHES, Branch, DPENetwork
from ..network.generator import Generator, warp
from ..network.layers import SLOPE, SQRT2, ConvLayer
from .growth import PAIR_CHANNELS, all_colours

DARK = -0.9
"""Colour of a hole, in -1..1."""
MOST_OPEN = 5.0
"""Logit of the masks' biases, summed over the levels, at most: 99 % of a feature comes from the source. With 3 (95 %)
what is seen in the source came out 1 dB worse, since masks that are not quite open tint."""
SMALLEST_HOLE = 0.003
"""Mean gain of a picture that counts at least in `closing_loss`: what is all but right is left alone."""
CLOSED, OPEN = -4.0, 3.0
"""Logits beyond which a mask on the right side is left alone. Masks start from more than `OPEN`: were all of them
pushed open, they would hardly learn where to close."""
SPILL = 0.15
"""How much what a hole covers in vain counts against what it gains elsewhere: holes are few, and must be found."""


def darken_holes(network: DPENetwork, branch: Branch) -> None:
    """Let a generator show `DARK` where its last mask closes, and let its masks be able to close.

    What open masks show stays as it was, within some thousandths of the range of colours.

    Args:
        network: in its training form, its last RGB heads not saturated, as those of `growth.py` are.
        branch: whose generator.
    """
    with torch.no_grad():
        channel = _constant_channel(network)
        generator = network.generator(branch)
        _set_hole(generator.to_rgbs[-1], channel, DARK)
        _limit_masks(generator)


def closing_loss(maps: Tensor, source: Tensor, truth: Tensor, visible: Tensor) -> Tensor:
    """Whether each pixel's mask is on the side that is nearer the truth, a hole or what is fetched; a scalar.

    By the picture alone a mask hardly learns to close: where it is open its sigmoid lets little of a gradient through,
    and few pixels want it. This is a hinge loss whose cost is what the wrong side costs the picture, so that a hole
    ends where it no longer pays.

    Args:
        maps: flow maps of the last level [N, 3, S, S], before tanh and sigmoid; gradients reach the masks alone.
        source, truth: pictures [N, 3, S, S].
        visible: [N, 1, S, S], share of the pixel seen in the source, 0..1: what is seen is not asked to close.

    Returns:
        Mean over samples of how far logits are from `CLOSED` or `OPEN`, in units of what the holes are worth.
    """
    with torch.no_grad():
        fetched, _ = warp(source, maps.float())
        gain = (fetched - truth).abs().mean(1, keepdim=True) - (DARK - truth).abs().mean(1, keepdim=True)
        closing, opening = F.relu(gain) * (1.0 - visible), F.relu(-gain)
        worth = closing.sum((1, 2, 3), keepdim=True).clamp_min(SMALLEST_HOLE * gain[0].numel())
    logit = maps[:, 2:3].float()
    cost = closing * F.relu(logit - CLOSED) + SPILL * opening * F.relu(OPEN - logit)
    return (cost / worth).sum() / len(maps)


def _constant_channel(network: DPENetwork) -> int:
    """Make one of the first layer's channels 1 everywhere, and tell which.

    It is the one that the others and a constant explain best; what reads it reads those instead.
    """
    first, block = cast(ConvLayer, network.enc.net_app.convs[0]), network.enc.net_app.convs[1]
    features = first(all_colours(first.conv.weight).T.reshape(1, 3, 1, -1))[0, :, 0].T.double()
    fits = {k: _explain(features, k) for k in range(PAIR_CHANNELS, features.shape[1])}
    if not fits:
        raise CheckpointError(
            f"dark_holes: expected more than {PAIR_CHANNELS} channels at the network's full size, got {PAIR_CHANNELS}."
        )
    channel = min(fits, key=lambda k: fits[k][1])
    shares = fits[channel][0]
    readers = [block.get_submodule("conv1"), block.get_submodule("skip")]
    readers += [network.generator(b).to_rgbs[-1].get_submodule("conv") for b in BRANCHES]
    for reader in readers:
        weight = cast(ConvLayer, reader).conv.weight
        read = weight[:, channel].clone()
        weight[:, channel] = 0.0
        weight.add_(read[:, None] * shares.to(weight)[None, :, None, None])
    assert first.act is not None
    first.conv.weight[channel] = 0.0
    first.act.bias.view(-1)[channel] = 1.0 / SQRT2
    return channel


def _explain(features: Tensor, channel: int) -> tuple[Tensor, float]:
    """A channel of features [N, C] as a sum of the others and a constant.

    Returns:
        Factors [C], the constant in the channel's own place, and the root mean square of what is left.
    """
    known = features.clone()
    known[:, channel] = 1.0
    factors = torch.linalg.lstsq(known, features[:, channel]).solution
    return factors, float((known @ factors - features[:, channel]).square().mean().sqrt())


def _set_hole(head: nn.Module, channel: int, colour: float) -> None:
    """Let an RGB head show `colour` where no features come, and with the constant `channel` what it showed before."""
    layer = cast(ConvLayer, head.get_submodule("conv"))
    assert layer.act is not None
    bias = head.get_parameter("bias").view(-1)
    wanted = colour - SQRT2 * F.leaky_relu(layer.act.bias.view(-1), SLOPE)
    layer.conv.weight[:, channel, 0, 0] += (bias - wanted) / (SQRT2 * layer.conv.scale)
    bias.copy_(wanted)


def _limit_masks(generator: Generator) -> None:
    """Take what exceeds `MOST_OPEN` from the biases of masks, over all levels; RGB heads make up for the dimming."""
    before = after = 0.0
    for flow, rgb in zip(generator.to_flows, generator.to_rgbs, strict=True):
        bias = flow.get_parameter("bias")[0, 2]
        before += float(bias)
        bias.fill_(min(float(bias), MOST_OPEN - after))
        after += float(bias)
        dimmed = torch.tensor(after).sigmoid() / torch.tensor(before).sigmoid()
        cast(ConvLayer, rgb.get_submodule("conv")).conv.weight.div_(dimmed)
