"""What the encoder reads off pictures: pose, expression, landmarks.

Off rendered heads, whose truth is known, to teach the encoder; and off edited pictures, to teach the generators what a
person would see in them. By their pixels a lid that does not move, or a mouth half as open as it should be, are nearly
right; by what is read there they are not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from ..network import DPENetwork, Encoding
from .landmarks import EXPRESSIVE
from .regression import ParameterHeads

NOTICED = 1.0
"""Squared length of a part's movement that `shortfall` half notices, over its landmarks, in `data.LANDMARK_UNIT`: about
what the reading errs by."""

EASE = {"pose": 1.0, "expression": 3.0, "landmarks": 1.0}
"""Weights of the terms of a picture's regression: an expression is the hardest to see."""


def picture_terms(heads: ParameterHeads, w: Tensor, truths: Tensor) -> dict[str, Tensor]:
    """Regression of what is known of pictures from their codes `w` [N, style_dim]; truths [N, P + K + L]."""
    wanted = truths.split(heads.dims, 1)
    terms = dict(zip(("pose", "expression", "landmarks"), map(huber, heads.read(w), wanted), strict=True))
    return {name: EASE[name] * term for name, term in terms.items()}


def encode_frozen(network: DPENetwork, images: Tensor) -> Encoding:
    """Encode pictures [N, 3, S, S] so that gradients reach the pictures, but not the encoder."""
    weights = {name: value.detach() for name, value in network.enc.named_parameters()}
    return cast(Encoding, functional_call(network.enc, weights, (images,)))


def reading_difference(heads: ParameterHeads, found: Tensor, wanted: Tensor) -> Tensor:
    """Difference of pose, expression and landmarks as read off two lots of codes `w` [N, style_dim], a scalar.

    Only the codes are taught, not the heads that read them.
    """
    apart = F.linear(found - wanted, heads.picture.effective_weight().detach()).split(heads.dims, 1)
    return torch.stack(
        [EASE[name] * huber(part, torch.zeros_like(part)) for name, part in zip(EASE, apart, strict=True)]
    ).sum()


def shortfall(heads: ParameterHeads, source: Tensor, found: Tensor, wanted: Tensor) -> Tensor:
    """How much of the way that brows, eyes and mouth should go is missing, as read off codes `w`.

    Differences from the truth teach a lid, which moves a little, less than a mouth, and are content with half of what
    is hard to place. Here each part counts by the share of its own way that is missing; going too far costs nothing, as
    `reading_difference` sees to that. Only the codes are taught, not the heads that read them.

    Args:
        source: codes [N, style_dim] of the pictures that were edited.
        found, wanted: those of edited and of true pictures.

    Returns:
        Mean share over samples and parts, a scalar: 0 = nothing is missing, 1 = nothing moves.
    """
    matrix = heads.picture.effective_weight().detach()[-heads.dims[2] :]
    went, way = (F.linear(codes - source, matrix).float().unflatten(1, (-1, 2)) for codes in (found, wanted))
    missing = []
    for part in EXPRESSIVE:
        left, whole = (way - went)[:, list(part)].flatten(1), way[:, list(part)].flatten(1)
        missing.append(F.relu((left * whole).sum(1)) / (whole.square().sum(1) + NOTICED))
    return torch.stack(missing).mean()


def feature_difference(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
    """Mean L1 difference of feature maps [N, C, r, r] by level, relative to the mean size of the wanted ones."""
    pairs = zip(found, wanted, strict=True)
    # Each sample by itself, so that splitting a batch over processes does not change the loss.
    levels = [(_mean_size(f.float() - w.float()) / _mean_size(w.float()).clamp_min(1e-6)).mean() for f, w in pairs]
    return torch.stack(levels).mean()


def _mean_size(maps: Tensor) -> Tensor:
    return maps.abs().mean((1, 2, 3))


def huber(found: Tensor, wanted: Tensor) -> Tensor:
    """Mean Huber loss, a scalar float32."""
    return F.smooth_l1_loss(found.float(), wanted)
