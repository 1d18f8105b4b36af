"""Progressive growth: a larger or wider network that starts out as the function the smaller one was.

Lower blocks carry over by resolution. The fresh ones at the top begin as resampling: the encoder's new blocks hand a
downsampled picture through to the old ones, the generators' new level adds nothing to the up-sampled picture, or reads
the source's colours in place of the level below it. Their remaining weights are random, so all of them can learn at
once (after Net2Net, Chen et al. 2016). New channels of a wider layer are random too, and nothing listens to them yet.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import CheckpointError
from ..network import BRANCHES, DPENetwork, NetworkConfig
from ..network.layers import (
    SLOPE,
    SQRT2,
    ConvLayer,
    ConvWeight,
    EqualConv,
    ModulatedConv,
    ModulatedProjection,
)
from .discriminator import Discriminator

COLOUR_LEVELS = 9
"""Values of red, green and blue each that an RGB head's map of colours is looked at by."""
SMALLEST_DIRECTION = 1e-3
"""Size of a direction in features that a fitted head still reads, relative to the largest."""
PAIR_CHANNELS = 6
"""Channels that carry the colours, see `colour_pair`."""


def grow(network: DPENetwork, config: NetworkConfig, sharp: bool = False) -> DPENetwork:
    """A network of a larger size or larger widths with the blocks of a smaller one.

    Args:
        network: in its training form.
        config: the larger network's; same code sizes, no narrower at the resolutions both have.
        sharp: read the source's colours at the new size, moved by the flow learned so far, instead of enlarging those
            of the smaller network's last level. What its other levels paint stays.

    Raises:
        CheckpointError: sizes or widths do not fit.
    """
    old = network.config
    if (old.style_dim, old.motion_dim) != (config.style_dim, config.motion_dim) or old.size > config.size:
        raise CheckpointError(f"grow: expected a larger network with codes of the same sizes, got {old} -> {config}.")
    narrower = [r for r, c in old.channels.items() if config.channels[r] < c]
    if narrower:
        raise CheckpointError(
            f"grow: expected the same widths or larger ones, but they shrink at {narrower} px. Give `channels` "
            f"at least {dict(old.channels)}."
        )
    widths = {r: config.channels[r] for r in old.channels}
    if widths != dict(old.channels):
        network = _widen(network, NetworkConfig(old.size, old.style_dim, old.motion_dim, widths))
    while network.config.size < config.size:
        size = network.config.size * 2
        network = _double(network, NetworkConfig(size, config.style_dim, config.motion_dim, config.channels), sharp)
    return network


def _double(network: DPENetwork, config: NetworkConfig, sharp: bool) -> DPENetwork:
    device = network.dir.weight.device
    grown = DPENetwork(config).to(device)
    state = {k: v for k, v in network.state_dict().items() if not k.startswith("enc.")}
    with torch.no_grad():
        grown.load_state_dict({**grown.state_dict(), **state})
        old, new = network.enc.net_app.convs, grown.enc.net_app.convs
        for i in range(1, len(old)):
            new[i + 1].load_state_dict(old[i].state_dict())
        _pass_downsampled(cast(ConvLayer, new[0]), new[1], cast(ConvLayer, old[0]))
        for branch in BRANCHES:
            generator = grown.generator(branch)
            cast(nn.Module, generator.to_flows[-1].conv).get_parameter("weight").zero_()
            if sharp:
                _hand_over_colours(cast(ConvLayer, old[0]), generator.to_rgbs[-2], generator.to_rgbs[-1])
            else:
                cast(ConvLayer, generator.to_rgbs[-1].conv).conv.weight.zero_()
    return grown


def _hand_over_colours(first: ConvLayer, old: nn.Module, new: nn.Module) -> None:
    """Let a new RGB head make of the source's colours what the old last one did, which then adds nothing.

    The old head's features are a pointwise function of the colours, and it reads them all but linearly: the new one
    takes the linear map that is nearest over all colours.

    Args:
        first: the layer that the old head's features come from.
        old, new: the RGB heads.
    """
    colours = all_colours(first.conv.weight)
    made = old(first(colours.T.reshape(1, 3, 1, -1)), None).reshape(3, -1).T
    known = F.pad(colours, (0, 1), value=1.0)
    fitted = torch.linalg.lstsq(known, made.to(known)).solution
    _read_colours(new, fitted[:3].T, fitted[3])
    for parameter in old.parameters():
        parameter.zero_()


def all_colours(like: Tensor) -> Tensor:
    """Colours [N, 3] from all over -1..1, with the device and dtype of `like`."""
    levels = torch.linspace(-1.0, 1.0, COLOUR_LEVELS)
    return torch.cartesian_prod(levels, levels, levels).to(like)


def _widen(network: DPENetwork, config: NetworkConfig) -> DPENetwork:
    wide = DPENetwork(config).to(network.dir.weight.device)
    narrow = dict(network.named_modules())
    with torch.no_grad():
        for name, module in wide.named_modules():
            convolution = isinstance(module, ConvWeight | EqualConv | ModulatedConv | ModulatedProjection)
            for key, new in module.named_parameters(recurse=False):
                old = narrow[name].get_parameter(key)
                if convolution and key == "weight":
                    _widen_convolution(new, old)
                else:
                    new[tuple(slice(0, n) for n in old.shape)] = old
    return wide


def _widen_convolution(new: Tensor, old: Tensor) -> None:
    """Put a weight [(1,) out, in, k, k] into a larger one; the old outputs do not read the new inputs.

    Equalised layers divide by sqrt(fan_in), which has grown.
    """
    rows, columns = old.shape[-4:-2]
    new[..., :rows, :, :, :] = 0.0
    new[..., :rows, :columns, :, :] = old * (new.shape[-3] / columns) ** 0.5


def grow_discriminator(discriminator: Discriminator, size: int, channels: dict[int, int]) -> Discriminator:
    """The same for a discriminator."""
    while discriminator.size < size:
        grown = Discriminator(discriminator.size * 2, channels).to(next(discriminator.parameters()).device)
        state = {k: v for k, v in discriminator.state_dict().items() if k.startswith("final")}
        with torch.no_grad():
            grown.load_state_dict({**grown.state_dict(), **state})
            for i in range(1, len(discriminator.convs)):
                grown.convs[i + 1].load_state_dict(discriminator.convs[i].state_dict())
            _pass_downsampled(cast(ConvLayer, grown.convs[0]), grown.convs[1], cast(ConvLayer, discriminator.convs[0]))
        discriminator = grown
    return discriminator


def _pass_downsampled(first: ConvLayer, block: nn.Module, old_first: ConvLayer) -> None:
    """Set a new first layer and block so that together they are the old first layer on a downsampled picture.

    Colours v go through an activation as the pair (v, -v): leaky(v) - leaky(-v) = (1 + slope) v, so the next layer can
    read them back linearly. The block's second convolution then is the old first layer; its blur is the downsampling.
    """
    conv1, conv2, skip = (cast(ConvLayer, block.get_submodule(n)) for n in ("conv1", "conv2", "skip"))
    pair, unpair = colour_pair(first.conv.weight.shape[0])
    _set(first, pair, 6)
    _set(conv1, pair @ unpair, 6)
    old = old_first.conv.weight[:, :, 0, 0] * old_first.conv.scale
    # The block's second convolution has gain 1, the old first layer sqrt(2); the activation commutes with the factor.
    _set(conv2, SQRT2 * old @ unpair.to(old), old.shape[0])
    bias = old_first.act
    if bias is not None and conv2.act is not None:
        conv2.act.bias.copy_(bias.bias * SQRT2)
    skip.conv.weight.zero_()


def colour_pair(width: int) -> tuple[Tensor, Tensor]:
    """Matrices [6, 3] that spreads colours v to (v, -v), and [3, 6] that reads them back behind an activation.

    Raises:
        CheckpointError: a layer of `width` channels has no room for six.
    """
    if width < PAIR_CHANNELS:
        raise CheckpointError(
            f"expected at least {PAIR_CHANNELS} channels at every resolution of a stage, got {width}."
        )
    pair = torch.cat((torch.eye(3), -torch.eye(3)))
    # sqrt(2) is the activation's gain.
    return pair, pair.T / ((1 + SLOPE) * SQRT2)


def start_as_copy(network: DPENetwork) -> None:
    """Let a fresh network with still flows hand its source through, so that it has only the motion left to learn.

    The encoder's first layer carries the colours in six channels, the generators' last RGB head reads them back, and
    the other RGB heads start at zero.
    """
    first = cast(ConvLayer, network.enc.net_app.convs[0])
    pair, _ = colour_pair(first.conv.weight.shape[0])
    with torch.no_grad():
        _set(first, pair, 6)
        for branch in BRANCHES:
            heads = list(network.generator(branch).to_rgbs)
            for head in heads[:-1]:
                cast(ConvLayer, head.conv).conv.weight.zero_()
            _read_colours(heads[-1], torch.eye(3), torch.zeros(3))


def read_first_layer(network: DPENetwork, opened: float = 1.0) -> None:
    """Let the generators' last RGB heads read the colours off an encoder's first layer that was not set up for it.

    The heads take the linear map from that layer's features that comes nearest to the colours, over all of them.

    Args:
        network: whose flows are still and whose other RGB heads are zero, as `start_as_copy` leaves them.
        opened: how much of the features the masks let through, 0..1.
    """
    first = cast(ConvLayer, network.enc.net_app.convs[0])
    with torch.no_grad():
        colours = all_colours(first.conv.weight)
        made = opened * first(colours.T.reshape(1, 3, 1, -1)).reshape(-1, len(colours)).T
        known = F.pad(made, (0, 1), value=1.0).double().cpu()
        # Features that hardly vary would take large weights, which blow up what masks and warps change in them.
        fitted = torch.linalg.lstsq(known, colours.double().cpu(), rcond=SMALLEST_DIRECTION, driver="gelsd").solution
        matrix, offset = fitted[:-1].T, fitted[-1]
        for branch in BRANCHES:
            head = network.generator(branch).to_rgbs[-1]
            layer = cast(ConvLayer, head.conv)
            _set(layer, matrix / SQRT2, 3)
            # With the offset in the activation's bias it sees the colours plus sqrt(2), which is its linear part.
            bias = cast(nn.Module, layer.act).get_parameter("bias")
            bias.copy_((offset / SQRT2 + 1.0).view_as(bias))
            head.get_parameter("bias").fill_(-SQRT2)


def _read_colours(head: nn.Module, matrix: Tensor, offset: Tensor) -> None:
    """Let an RGB head make `matrix` [3, 3] times the colours plus `offset` [3], of features that hold them in pairs."""
    layer = cast(ConvLayer, head.conv)
    _, unpair = colour_pair(layer.conv.weight.shape[1])
    # A bias of one keeps the head's own activation in its linear part; the bias behind it takes it away again.
    _set(layer, matrix @ unpair.to(matrix) / SQRT2, 3)
    cast(nn.Module, layer.act).get_parameter("bias").fill_(1.0)
    bias = head.get_parameter("bias")
    bias.copy_((offset - SQRT2).view_as(bias))


def _set(layer: ConvLayer, matrix: Tensor, rows: int) -> None:
    """Give the first `rows` outputs the middle tap `matrix` [rows, in]; nothing else reaches them."""
    weight = layer.conv.weight
    middle = weight.shape[-1] // 2
    weight[:rows] = 0.0
    weight[:rows, : matrix.shape[1], middle, middle] = matrix.to(weight) / layer.conv.scale
