"""Losses on rendered heads, where the truth of every edit is known. They say which branch is pose, and forbid a branch
that does everything or nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..network import BRANCHES, Branch, DPENetwork, Encoding
from ..network.generator import identity_grid, warp
from .config import FLOW_SIZE, SupervisedWeights, due
from .cycle import select
from .data import LANDMARK_UNIT, SupervisedBatch, shrink_flow
from .holes import closing_loss
from .landmarks import EXPRESSIVE
from .losses import PerceptualLoss, edge_l1, generator_adversarial, pyramid_l1
from .reading import encode_frozen, feature_difference, huber, picture_terms, reading_difference, shortfall
from .regression import ParameterHeads

MASK_OPEN = 3.0
"""Logit a fresh mask starts from, and up to which it is asked to open: 95 % of each feature comes from the source."""

MOVED = 0.04
"""Displacement that counts as wholly moved, in half pictures (2.6 px of 128)."""

TARGETS = ("pose", "exp", "both")
"""True pictures, in the order in which a batch has their landmarks, after source and driver."""

FOCUS_SIZE = 32
FOCUS_SIGMA = 0.06
"""Reach of the focus around a landmark, in half pictures (4 px of 128)."""
SMALLEST_PART = 0.005
"""Share of a picture that counts as a part's, or as hidden, at least; what is all but out of it is not made up for."""


@dataclass(frozen=True)
class Truth:
    """What one branch should make of a batch.

    Attributes:
        image: [N, 3, S, S].
        region: weight [N, 1, S, S] of the pixels, mean 1.
    """

    image: Tensor
    region: Tensor


@dataclass(frozen=True)
class Edits:
    """What the network made of a batch: pictures by branch, and both in turn where that was asked for."""

    images: dict[Branch, Tensor]
    both: Tensor | None


def zero_flows(network: DPENetwork) -> None:
    """Start every generator's flow at the identity with open masks: it then moves pixels before it paints any."""
    with torch.no_grad():
        for branch in BRANCHES:
            for level, head in enumerate(network.generator(branch).to_flows):
                weights = cast(nn.Module, head.conv).get_parameter("weight")
                weights.zero_()
                if level == 0:
                    head.get_parameter("bias")[:, 2] = MASK_OPEN


def orthogonal_motion(network: DPENetwork) -> None:
    """Start the linear stacks of motion editing as rotations.

    A product of many Gaussian matrices weakens most directions; orthogonal ones keep all of them alike (Saxe et al.
    2014, "Exact solutions to the nonlinear dynamics of learning in deep linear neural networks").
    """
    with torch.no_grad():
        for stack in (network.mlp, network.mlp_pose, network.mlp_exp):
            for layer in stack:
                weight = layer.get_parameter("weight")
                # Equalised layers divide by sqrt(fan_in).
                nn.init.orthogonal_(weight, gain=weight.shape[1] ** 0.5)


def focus_weight(landmarks: Tensor) -> Tensor:
    """Where brows, eyes and mouth are, [N, 1, 32, 32], each of the three with mean 1: lids count as much as a mouth.

    Args:
        landmarks: [N, 136] of the picture, in `LANDMARK_UNIT`.
    """
    marks = landmarks.unflatten(1, (-1, 2)) * LANDMARK_UNIT
    centres = _pixel_centres(marks.new_zeros(1, 2, FOCUS_SIZE, FOCUS_SIZE)).flatten(1).T
    distances = torch.cdist(centres.expand(len(marks), -1, -1), marks)
    total = torch.zeros_like(distances[..., 0])
    for part in EXPRESSIVE:
        near = torch.exp(-0.5 * (distances[..., list(part)].amin(2) / FOCUS_SIGMA) ** 2)
        total += near / near.mean(1, keepdim=True).clamp_min(SMALLEST_PART)
    return total.reshape(-1, 1, FOCUS_SIZE, FOCUS_SIZE)


def hidden_weight(visible: Tensor) -> Tensor:
    """Where the target shows what its source hides, [N, 1, s, s]: mean 1, however little that is.

    Args:
        visible: [N, 1, s, s], share of the pixel seen in the source, 0..1.
    """
    hidden = 1.0 - visible
    return hidden / hidden.mean((1, 2, 3), keepdim=True).clamp_min(SMALLEST_PART)


def region_weight(source: Tensor, target: Tensor, strength: float, extra: Sequence[Tensor] = ()) -> Tensor:
    """Weight [N, 1, S, S], mean 1 over a picture: more where the target differs from the source, and by `extra`.

    An expression changes few pixels; unweighted, copying the source is nearly right.

    Args:
        source, target: [N, 3, S, S].
        strength: how much more a changed pixel counts.
        extra: weights [N, 1, s, s] of any size that are added to a pixel's own, which is 1.
    """
    change = (target.float() - source.float()).abs().mean(1, keepdim=True)
    change = F.avg_pool2d(change, 5, stride=1, padding=2, count_include_pad=False)
    weight = 1.0 + strength * (change / 0.15).clamp(max=1.0)
    for more in extra:
        weight = weight + _resized(more, weight.shape[-1])
    return weight / weight.mean((1, 2, 3), keepdim=True)


def flow_loss(
    maps: list[Tensor],
    flow: Tensor,
    visible: Tensor,
    region: float = 0.0,
    shape: float = 0.0,
    focus: Tensor | None = None,
    reach: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Flow and mask losses over all levels of a generator.

    A level's sampling position is tanh(offset) + linspace(-1, 1, r), read with align_corners=False: in units where the
    picture's edges are -1 and 1, which is how the true positions are given.

    Args:
        maps: flow maps [N, 3, r, r] before tanh and sigmoid, by level.
        flow: true positions [N, 2, s, s], enlarged for levels above.
        visible: [N, 1, s, s], 0..1.
        region: how much more the distance counts where a point moves by `MOVED` or more.
        shape: weight of the difference between the errors of neighbouring points.
        focus: how much more places of the picture count, [N, 1, f, f].
        reach: how much more it counts where a moved point is not fetched from far enough away. A network that is not
            sure how far something moved is best off, by distances alone, with less than the truth's mean; this pinball
            loss along the true way (Koenker and Bassett 1978, "Regression quantiles") has it go farther.

    Returns:
        Mean L1 distance of the position where the point is visible, in half pictures, averaged over the levels; with
        `shape` times the mean L1 difference of neighbours' errors added.
        Mean distance of visible pixels' mask logits from an open mask's. Past that there is nothing to gain: a cross
        entropy, however small, drives the logits on until no mask can close any more where something hidden must be
        painted. Hidden pixels are left alone: the picture itself says what is best there.
    """
    distances, openings = [], []
    for level in maps:
        size = level.shape[-1]
        wanted, share = shrink_flow(flow, visible, size) if size <= flow.shape[-1] else _enlarged(flow, visible, size)
        grid = torch.tanh(level[:, :2].float()) + identity_grid(size, level.device).permute(0, 3, 1, 2)
        # Each sample by itself, so that splitting a batch over processes does not change the loss.
        portion = _normalised(share)
        stress = 1.0 + region * _moved(wanted)
        weight = share * (stress if focus is None else stress + _resized(focus, size))
        error = grid - wanted
        apart = error.abs().mean(1, keepdim=True)
        if reach:
            apart = apart + reach * _short(error, wanted)
        distance = (apart * _normalised(weight)).sum()
        distances.append(distance + shape * _difference(error, weight) if shape else distance)
        openings.append((F.relu(MASK_OPEN - level[:, 2:3].float()) * portion).sum())
    return torch.stack(distances).mean(), torch.stack(openings).mean()


def _difference(error: Tensor, weight: Tensor) -> Tensor:
    """Mean L1 difference between neighbours in `error` [N, 2, r, r]; the lesser `weight` [N, 1, r, r] counts."""
    total = error.new_zeros(())
    for axis in (2, 3):
        last = error.shape[axis] - 1
        both = torch.minimum(weight.narrow(axis, 0, last), weight.narrow(axis, 1, last))
        total = total + (error.diff(dim=axis).abs().mean(1, keepdim=True) * _normalised(both)).sum()
    return total


def _resized(weight: Tensor, size: int) -> Tensor:
    """A map of weights [N, 1, s, s] at `size` px."""
    if size < weight.shape[-1]:
        return F.adaptive_avg_pool2d(weight, size)
    return weight if size == weight.shape[-1] else F.interpolate(weight, (size, size), mode="bilinear")


def _enlarged(flow: Tensor, visible: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Flow and visibility at `size` px; what lies beside something hidden counts as hidden, too."""
    seen = -F.max_pool2d(-visible, 3, stride=1, padding=1)
    return (
        F.interpolate(flow, (size, size), mode="bilinear", align_corners=False),
        F.interpolate(seen, (size, size), mode="nearest"),
    )


def _normalised(weight: Tensor) -> Tensor:
    """Weights [N, 1, r, r] that sum to 1 / N over each sample of some size."""
    return weight / weight.sum((1, 2, 3), keepdim=True).clamp_min(1.0) / len(weight)


def _moved(flow: Tensor) -> Tensor:
    """0..1 [N, 1, r, r]: how far a point [N, 2, r, r] comes from elsewhere, up to `MOVED`."""
    distance = torch.linalg.vector_norm(flow - _pixel_centres(flow), dim=1, keepdim=True)
    return (distance / MOVED).clamp(max=1.0)


def _short(error: Tensor, flow: Tensor) -> Tensor:
    """How much of the true way [N, 2, r, r] positions with an `error` fall short of, [N, 1, r, r] in half pictures.

    Halved, like a mean over both axes; what hardly moves counts by how far it does (`_moved`).
    """
    way = flow - _pixel_centres(flow)
    along = (error * F.normalize(way, dim=1)).sum(1, keepdim=True)
    return 0.5 * F.relu(-along) * _moved(flow)


def _pixel_centres(flow: Tensor) -> Tensor:
    """Positions [2, r, r] of the pixels themselves, for a flow [N, 2, r, r]: where nothing moves."""
    size = flow.shape[-1]
    axis = (torch.arange(size, device=flow.device) * 2 + 1) / size - 1
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return torch.stack((x, y))


def _own(batch: SupervisedBatch) -> SupervisedBatch:
    """The batch with its `own` samples driven by their own source: nothing may change in them."""
    if batch.own is None:
        return batch
    chosen = batch.own

    def swap(value: Tensor | None, own: Tensor | None) -> Tensor | None:
        if value is None or own is None:
            return None
        return torch.where(chosen.view(-1, *[1] * (value.ndim - 1)), own, value)

    still, seen = _still(batch)
    changes: dict[str, Tensor | None] = {"driver": swap(batch.driver, batch.source), "own": None}
    for name in TARGETS:
        changes[f"{name}_target"] = swap(getattr(batch, f"{name}_target"), batch.source)
        changes[f"{name}_flow"] = swap(getattr(batch, f"{name}_flow"), still)
        changes[f"{name}_visible"] = swap(getattr(batch, f"{name}_visible"), seen)
    if batch.landmarks is not None:
        changes["landmarks"] = swap(batch.landmarks, batch.landmarks[:, :1])
    changes["driver_pose"] = swap(batch.driver_pose, batch.source_pose)
    changes["driver_expression"] = swap(batch.driver_expression, batch.source_expression)
    return replace(batch, **changes)  # type: ignore[arg-type]


def _still(batch: SupervisedBatch) -> tuple[Tensor | None, Tensor | None]:
    """Flow and visibility of pictures in which nothing moves, as large as the batch's."""
    if batch.pose_flow is None:
        return None, None
    flow = _pixel_centres(batch.pose_flow)[None]
    return flow, torch.ones_like(flow[:, :1])


@dataclass(frozen=True)
class SupervisedStep:
    """One step's losses by name, weighted, and the pictures they were taken on."""

    terms: dict[str, Tensor]
    edits: Edits
    batch: SupervisedBatch


class Supervision:
    """The supervised losses of a run.

    Args:
        weights: see `SupervisedWeights`.
        pose_branch: the branch that is taught the pose, by its checkpoint name.
        perceptual: VGG19 loss, or None.
    """

    def __init__(self, weights: SupervisedWeights, pose_branch: Branch, perceptual: PerceptualLoss | None) -> None:
        self.weights, self.perceptual = weights, perceptual
        self.pose_branch: Branch = pose_branch
        self.exp_branch: Branch = "exp" if pose_branch == "pose" else "pose"

    def __call__(
        self,
        network: DPENetwork,
        heads: ParameterHeads,
        batch: SupervisedBatch,
        step: int,
        discriminator: nn.Module | None,
        only: Branch | None = None,
    ) -> SupervisedStep:
        """Losses of one batch at step number `step`, which decides the occasional ones.

        With `only` a branch, those of its edits, whose gradients reach nothing but its generator.
        """
        weights, n = self.weights, len(batch)
        with torch.set_grad_enabled(only is None):
            batch, source, codes, terms = self._encode(network, heads, batch)
        if only is not None:
            terms = {}
        images: dict[Branch, Tensor] = {}
        for branch, role in self._roles():
            if only in (None, branch):
                truth = self._truth(batch, role)
                image, maps = network.generator(branch).render_levels(source.w + codes[branch][n:], source.features)
                images[branch] = image
                self._picture_terms(terms, role, image, truth, discriminator)
                self._flow_terms(terms, role, maps, batch)
                if role == "exp" and weights.close and batch.exp_visible is not None:
                    visible = _resized(batch.exp_visible, image.shape[-1])
                    terms["exp_close"] = weights.close * closing_loss(maps[-1], batch.source, truth.image, visible)
        if due(step, weights.reading_every) and (weights.reading or weights.features or weights.shortfall):
            self._reading_terms(terms, network, heads, images, batch, source.w)
        both = None
        if only is None and due(step, weights.both_every):
            # Alternate the order; users may apply either branch first.
            first = self.pose_branch if (step // weights.both_every) % 2 == 0 else self.exp_branch
            second = self.exp_branch if first == self.pose_branch else self.pose_branch
            both = self._again(network, network.encode(images[first]), codes[second][n:], second)
            self._picture_terms(terms, "both", both, self._truth(batch, "both"), None, weights.both)
        if only is None and due(step + weights.leak_every // 2, weights.leak_every) and weights.leak:
            terms["leak"] = weights.leak * self._leak(network, codes, batch)
        return SupervisedStep(terms, Edits(images, both), batch)

    def flows(self, network: DPENetwork, heads: ParameterHeads, batch: SupervisedBatch) -> SupervisedStep:
        """Losses of flows and codes alone, up to `FLOW_SIZE` px; the pictures are the source's pixels moved."""
        n = len(batch)
        batch, source, codes, terms = self._encode(network, heads, batch)
        features = tuple(f for f in source.features if f.shape[-1] <= FLOW_SIZE)
        images: dict[Branch, Tensor] = {}
        for branch, role in self._roles():
            _, maps = network.generator(branch).render_levels(source.w + codes[branch][n:], features)
            self._flow_terms(terms, role, maps, batch)
            with torch.no_grad():
                images[branch], _ = warp(
                    batch.source, F.interpolate(maps[-1], batch.source.shape[-2:], mode="bilinear")
                )
        return SupervisedStep(terms, Edits(images, None), batch)

    def _roles(self) -> tuple[tuple[Branch, str], tuple[Branch, str]]:
        """Each branch with the name that a batch has for its truth."""
        return (self.pose_branch, "pose"), (self.exp_branch, "exp")

    def _encode(
        self, network: DPENetwork, heads: ParameterHeads, batch: SupervisedBatch
    ) -> tuple[SupervisedBatch, Encoding, dict[Branch, Tensor], dict[str, Tensor]]:
        """The batch with its share of own drivers, its sources' encoding, all pictures' codes, and the codes' terms."""
        weights, n = self.weights, len(batch)
        batch = _own(batch)
        encoded = network.encode(torch.cat((batch.source, batch.driver)))
        alpha = network.motion(encoded.w)
        codes = {b: network.branch_code(alpha, b) for b in BRANCHES}
        terms = self._regression(heads, codes, batch)
        if weights.picture and batch.landmarks is not None:
            read = picture_terms(heads, encoded.w, batch.truths()[: 2 * n])
            terms["picture"] = weights.picture * torch.stack(list(read.values())).sum()
        return batch, select(encoded, slice(0, n)), codes, terms

    def _flow_terms(self, terms: dict[str, Tensor], role: str, maps: list[Tensor], batch: SupervisedBatch) -> None:
        weights = self.weights
        flow, visible = getattr(batch, f"{role}_flow"), getattr(batch, f"{role}_visible")
        if flow is not None and visible is not None and (weights.flow or weights.mask):
            focus = _focus(batch, role, weights.flow_focus)
            reach = weights.flow_reach if role == "exp" else 0.0
            distance, mask = flow_loss(maps, flow, visible, weights.flow_region, weights.flow_shape, focus, reach)
            terms[f"{role}_flow"], terms[f"{role}_mask"] = weights.flow * distance, weights.mask * mask

    def _again(self, network: DPENetwork, halfway: Encoding, code: Tensor, branch: Branch) -> Tensor:
        return network.generator(branch)(halfway.w + code, halfway.features)

    def _truth(self, batch: SupervisedBatch, name: str) -> Truth:
        image, visible = getattr(batch, f"{name}_target"), getattr(batch, f"{name}_visible")
        focus = _focus(batch, name, self.weights.focus)
        extra = [] if focus is None else [focus]
        if self.weights.hidden and visible is not None:
            extra.append(self.weights.hidden * hidden_weight(visible))
        return Truth(image, region_weight(batch.source, image, self.weights.region, extra))

    def _picture_terms(
        self,
        terms: dict[str, Tensor],
        name: str,
        image: Tensor,
        truth: Truth,
        discriminator: nn.Module | None,
        factor: float = 1.0,
    ) -> None:
        weights = self.weights
        terms[f"{name}_l1"] = factor * weights.l1 * pyramid_l1(image, truth.image, truth.region)
        if weights.edge:
            terms[f"{name}_edge"] = factor * weights.edge * edge_l1(image, truth.image, truth.region)
        if self.perceptual is not None and weights.perceptual:
            terms[f"{name}_perceptual"] = factor * weights.perceptual * self.perceptual(image, truth.image)
        if discriminator is not None and weights.adversarial:
            terms[f"{name}_adversarial"] = weights.adversarial * generator_adversarial(discriminator(image))

    def _reading_terms(
        self,
        terms: dict[str, Tensor],
        network: DPENetwork,
        heads: ParameterHeads,
        images: dict[Branch, Tensor],
        batch: SupervisedBatch,
        source_codes: Tensor,
    ) -> None:
        """What the encoder makes of the edited pictures against what it makes of the true ones.

        Both pass the same encoder, so that what it gets wrong cancels, and it is not taught: it could agree with
        itself by seeing nothing.
        """
        roles = [(branch, role) for branch, role in self._roles() if branch in images]
        made = encode_frozen(network, torch.cat([images[branch] for branch, _ in roles]))
        with torch.no_grad():
            true = network.encode(torch.cat([getattr(batch, f"{role}_target") for _, role in roles]))
        n = len(batch)
        for i, (_, role) in enumerate(roles):
            part = slice(i * n, (i + 1) * n)
            found, wanted = select(made, part), select(true, part)
            terms[f"{role}_reading"] = self.weights.reading * reading_difference(heads, found.w, wanted.w)
            if self.weights.features:
                terms[f"{role}_features"] = self.weights.features * feature_difference(found.features, wanted.features)
            if self.weights.shortfall and role == "exp":
                short = shortfall(heads, source_codes.detach(), found.w, wanted.w)
                terms["exp_shortfall"] = self.weights.shortfall * short

    def _regression(
        self, heads: ParameterHeads, codes: dict[Branch, Tensor], batch: SupervisedBatch
    ) -> dict[str, Tensor]:
        weights = self.weights
        pose = torch.cat((batch.source_pose, batch.driver_pose))
        expression = torch.cat((batch.source_expression, batch.driver_expression))
        return {
            "pose_parameters": weights.pose * huber(heads.pose(codes[self.pose_branch]), pose),
            "expression_parameters": weights.expression * huber(heads.expression(codes[self.exp_branch]), expression),
        }

    def _leak(self, network: DPENetwork, codes: dict[Branch, Tensor], batch: SupervisedBatch) -> Tensor:
        """How far each code follows what is not its own, relative to its spread over the batch.

        The true pose-only picture has the driver's pose and the source's expression: its pose code should be the
        driver's, its expression code the source's. (The expression-only picture would say the same once more.)
        """
        n = len(batch)
        alpha = network.motion(network.encode(batch.pose_target, with_features=False).w)
        total = alpha.new_zeros(())
        for branch, wanted in ((self.pose_branch, slice(n, None)), (self.exp_branch, slice(0, n))):
            code = codes[branch]
            spread = code.detach().var(0, unbiased=False).sum().clamp_min(1e-6)
            total = total + (network.branch_code(alpha, branch) - code[wanted]).square().sum(1).mean() / spread
        return total


def _focus(batch: SupervisedBatch, name: str, strength: float) -> Tensor | None:
    """How much more places of a true picture count, by where its landmarks are."""
    if not strength or batch.landmarks is None:
        return None
    return strength * focus_weight(batch.landmarks[:, TARGETS.index(name) - len(TARGETS)])
