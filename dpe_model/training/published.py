"""The published objective: VGG19 perceptual, L1 and adversarial terms on the six pictures of the cycle."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import PublishedWeights
from .cycle import CycleImages
from .losses import PerceptualLoss, generator_adversarial


@dataclass(frozen=True)
class PublishedLoss:
    """Loss of one batch: the total, and its weighted terms by name."""

    total: Tensor
    terms: dict[str, Tensor]


def published_loss(
    images: CycleImages,
    a: Tensor,
    b: Tensor,
    weights: PublishedWeights,
    perceptual: PerceptualLoss | None,
    discriminator: nn.Module | None,
) -> PublishedLoss:
    """The generator's loss on the cycle of A and B [N, 3, S, S].

    Terms, weighted: `perceptual` and `l1` of the cycle ends and L1 of the half-way pair, `halfway_perceptual`,
    `self` (perceptual and L1 of the self reconstructions), `adversarial`. Without VGG weights or without a
    discriminator the terms that need them are left out.
    """
    ends, targets = torch.cat((images.pose_exp_end, images.exp_pose_end)), (b, a)
    l1 = weights.cycle_l1 * (F.l1_loss(images.pose_exp_end, b) + F.l1_loss(images.exp_pose_end, a))
    l1 = l1 + weights.halfway_l1 * F.l1_loss(images.pose_halfway, images.exp_halfway)
    own = weights.self_l1 * (F.l1_loss(images.self_pose, a) + F.l1_loss(images.self_exp, a))
    terms = {"l1": l1, "self": own}
    if perceptual is not None:
        with torch.no_grad():
            of_b, of_a = (perceptual.describe(t) for t in targets)
        terms["perceptual"] = weights.cycle_perceptual * (
            perceptual.compare(perceptual.describe(images.pose_exp_end), of_b)
            + perceptual.compare(perceptual.describe(images.exp_pose_end), of_a)
        )
        terms["halfway_perceptual"] = weights.halfway_perceptual * perceptual(images.pose_halfway, images.exp_halfway)
        terms["self"] = own + weights.self_perceptual * (
            perceptual.compare(perceptual.describe(images.self_pose), of_a)
            + perceptual.compare(perceptual.describe(images.self_exp), of_a)
        )
    if discriminator is not None and weights.adversarial:
        # Each cycle end goes through on its own: the minibatch statistics are those of one kind of picture.
        per_end = [generator_adversarial(discriminator(end)) for end in ends.chunk(2)]
        terms["adversarial"] = weights.adversarial * (per_end[0] + per_end[1])
    return PublishedLoss(torch.stack(list(terms.values())).sum(), terms)
