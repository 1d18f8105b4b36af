"""One optimisation step's losses as modules, so that one call takes gradients on one process or on many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..network import Branch, DPENetwork
from ..network.layers import EqualLinear
from ..network.motion_editing import Direction
from .config import Phase, PublishedWeights, TrainConfig
from .cycle import run_cycle
from .data import Batch, DataError, PairBatch, SupervisedBatch, TwinBatch
from .discriminator import Discriminator
from .losses import PerceptualLoss, discriminator_adversarial, gradient_penalty
from .published import published_loss
from .reading import picture_terms
from .regression import ParameterHeads
from .supervision import SupervisedStep, Supervision
from .twins import TwinTeacher


@dataclass(frozen=True)
class StepOutput:
    """What the generator's step hands on.

    Attributes:
        total: the loss.
        terms: its weighted parts by name.
        fakes, reals: pictures for the discriminator, in pairs.
        images: pictures by caption, for a sheet.
    """

    total: Tensor
    terms: dict[str, Tensor]
    fakes: list[Tensor]
    reals: list[Tensor]
    images: dict[str, Tensor]


def cast_convolutions(module: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
    """The module's parameters with convolutions in `dtype`; styles, motion, codes, flow and RGB sums stay float32.

    Gradients flow back through the casts to the float32 parameters.
    """
    kinds = EqualLinear | nn.Linear | Direction
    full = {id(p) for m in module.modules() if isinstance(m, kinds) for p in m.parameters()}
    found: dict[str, Tensor] = {}
    for name, parameter in module.named_parameters():
        sums = name.endswith(".bias") and name.split(".")[-3] in ("to_rgbs", "to_flows")
        found[name] = parameter if id(parameter) in full or sums else parameter.to(dtype)
    return found


class LossModel(nn.Module):
    """Network and regression heads with the losses on a batch; `pose_branch` is taught the pose."""

    def __init__(
        self,
        network: DPENetwork,
        heads: ParameterHeads,
        config: TrainConfig,
        pose_branch: Branch,
        perceptual: PerceptualLoss | None,
        twins: TwinTeacher | None = None,
    ) -> None:
        super().__init__()
        self.network, self.heads = network, heads
        self.weights = config.published
        self.supervision = Supervision(config.supervised, pose_branch, perceptual)
        # In tuples, so that what is frozen is no part of this module.
        self.frozen = (perceptual,)
        self.teacher = (twins,)
        self.phase: Phase = "edit"
        self.branch: Branch | None = None

    def read_motion(self, batch: Batch) -> StepOutput:
        """Losses of a `motion` stage: pose, expression and landmarks read off each picture's code.

        Raises:
            DataError: pictures of which these are not known.
        """
        if not isinstance(batch, SupervisedBatch) or batch.landmarks is None:
            raise DataError("A motion stage needs rendered heads with landmarks: sources of kind synthetic or render.")
        w = self.network.encode(batch.pictures(), with_features=False).w
        terms = picture_terms(self.heads, w, batch.truths())
        shown = {"source": batch.source, "driver": batch.driver}
        return StepOutput(torch.stack(list(terms.values())).sum(), terms, [], [], shown)

    def agree_with_twins(self, batch: Batch) -> StepOutput:
        """Losses of a `twins` stage: what the encoder tells of pictures against what its teacher tells of their twins.

        Raises:
            DataError: pictures without twins.
        """
        (teacher,) = self.teacher
        if teacher is None or not isinstance(batch, TwinBatch):
            raise DataError("A stage of twins needs sources of kind twins.")
        terms = teacher.losses(self.network, self.heads, batch, self.supervision.exp_branch)
        shown = {"picture": batch.picture, "twin": batch.plain}
        return StepOutput(torch.stack(list(terms.values())).sum(), terms, [], [], shown)

    def find_flow(self, batch: Batch) -> StepOutput:
        """Losses of a `flow` stage: where the generators' lower levels fetch from, and what the codes tell.

        Raises:
            DataError: pictures of which this is not known.
        """
        if not isinstance(batch, SupervisedBatch) or batch.pose_flow is None:
            raise DataError("A flow stage needs rendered heads with flows: sources of kind synthetic or render.")
        made = self.supervision.flows(self.network, self.heads, batch)
        return StepOutput(torch.stack(list(made.terms.values())).sum(), made.terms, [], [], self._shown(made))

    def _shown(self, made: SupervisedStep) -> dict[str, Tensor]:
        """The pictures of a supervised step beside the true ones."""
        truth, images = made.batch, made.edits.images
        shown = {"source": truth.source, "driver": truth.driver}
        if self.supervision.pose_branch in images:
            shown |= {"pose": images[self.supervision.pose_branch], "true pose": truth.pose_target}
        if self.supervision.exp_branch in images:
            shown |= {"expression": images[self.supervision.exp_branch], "true expr.": truth.exp_target}
        return shown

    def edit(self, batch: SupervisedBatch, step: int, discriminator: nn.Module | None) -> StepOutput:
        """Losses of edits of rendered heads: of all branches, or of the one that is trained alone."""
        made = self.supervision(self.network, self.heads, batch, step, discriminator, self.branch)
        truth, edits, shown = made.batch, made.edits, self._shown(made)
        if edits.both is not None:
            shown |= {"both": edits.both, "true both": truth.both_target}
        pairs = [(shown[a], shown[b]) for a, b in (("pose", "true pose"), ("expression", "true expr.")) if a in shown]
        total = torch.stack(list(made.terms.values())).sum()
        return StepOutput(total, made.terms, [fake for fake, _ in pairs], [real for _, real in pairs], shown)

    def forward(self, batch: Batch, step: int, discriminator: nn.Module | None) -> StepOutput:
        """Losses of a batch at step number `step`."""
        if self.phase == "motion":
            return self.read_motion(batch)
        if self.phase == "flow":
            return self.find_flow(batch)
        if self.phase == "twins" or isinstance(batch, TwinBatch):
            return self.agree_with_twins(batch)
        if isinstance(batch, PairBatch):
            if self.branch is not None:
                raise DataError("A stage of one branch needs rendered heads: sources of kind synthetic or render.")
            images = run_cycle(self.network, batch.a, batch.b)
            loss = published_loss(images, batch.a, batch.b, self.weights, self.frozen[0], discriminator)
            shown = {
                "A": batch.a, "B": batch.b, "P(A,B)": images.pose_halfway, "E(B,A)": images.exp_halfway,
                "to B": images.pose_exp_end, "to A": images.exp_pose_end, "P(A,A)": images.self_pose,
                "E(A,A)": images.self_exp,
            }  # fmt: skip
            fakes, reals = [images.pose_exp_end, images.exp_pose_end], [batch.b, batch.a]
            return StepOutput(loss.total, loss.terms, fakes, reals, shown)
        return self.edit(batch, step, discriminator)


class GeneratorStep(nn.Module):
    """`LossModel` with its convolutions in the run's precision."""

    def __init__(self, model: LossModel, dtype: torch.dtype) -> None:
        super().__init__()
        self.model, self.dtype = model, dtype

    def forward(self, batch: Batch, step: int, discriminator: nn.Module | None) -> StepOutput:
        """See `LossModel`."""
        if self.dtype == torch.float32:
            return self.model(batch, step, discriminator)
        return functional_call(self.model, cast_convolutions(self.model, self.dtype), (batch, step, discriminator))


class DiscriminatorStep(nn.Module):
    """The discriminator's loss, in the run's precision. Each pair of real and made pictures passes on its own."""

    def __init__(self, discriminator: Discriminator, weights: PublishedWeights, dtype: torch.dtype) -> None:
        super().__init__()
        self.discriminator, self.weights, self.dtype = discriminator, weights, dtype

    def logits(self, images: Tensor) -> Tensor:
        """Logits [N, 1] of pictures [N, 3, S, S]."""
        if self.dtype == torch.float32:
            return self.discriminator(images)
        return functional_call(self.discriminator, cast_convolutions(self.discriminator, self.dtype), (images,))

    def forward(self, fakes: Sequence[Tensor], reals: Sequence[Tensor], penalise: bool) -> Tensor:
        """The weighted loss; with `penalise` the gradient penalty is added for all the steps it stands for."""
        weights = self.weights
        losses = []
        for fake, real in zip(fakes, reals, strict=True):
            real = real.detach().requires_grad_(penalise)
            on_real = self.logits(real)
            loss = weights.discriminator * discriminator_adversarial(on_real, self.logits(fake.detach()))
            if penalise:
                loss = loss + weights.r1 / 2 * weights.r1_every * gradient_penalty(on_real, real)
            losses.append(loss)
        return torch.stack(losses).sum()


class FrozenCritic(nn.Module):
    """The discriminator as the generator's step sees it: in the run's precision, its own weights without gradients."""

    def __init__(self, step: DiscriminatorStep) -> None:
        super().__init__()
        self.step = (step,)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, 1] of pictures [N, 3, S, S]."""
        return self.step[0].logits(images)
