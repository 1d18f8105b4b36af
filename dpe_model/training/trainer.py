"""The training loop: steps, schedules, growth, averaging, saving, resuming."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
import logging
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from ..checkpoint import save_checkpoint
from ..network import DPENetwork
from ..network.layers import Unused
from .config import ConfigError, Stage, TrainConfig, config_values, due
from .data import Batch, DataError, Share, StepData, SupervisedBatch, TwinBatch, step_batches
from .discriminator import STDDEV_GROUP, Discriminator
from .growth import grow, grow_discriminator, read_first_layer, start_as_copy
from .guard import GradientGuard, check_finite
from .holes import darken_holes
from .idle_motion import fill_idle_motion
from .losses import PerceptualLoss, load_perceptual
from .optimisers import make_optimiser
from .processes import Interruption, agreed, pick_device, synchronised
from .regression import ParameterHeads, start_motion
from .report import MetricsWriter, mean_terms
from .start import WarmStart, choose_roles, kept_roles, warm_start
from .state import (
    SCALARS,
    check_resumed,
    load_state,
    module_tensors,
    optimiser_tensors,
    restore_module,
    restore_optimiser,
    save_state,
)
from .steps import DiscriminatorStep, FrozenCritic, GeneratorStep, LossModel, StepOutput
from .supervision import MASK_OPEN, orthogonal_motion, zero_flows
from .twins import TwinTeacher, teach_encoder

logger = logging.getLogger(__name__)

SAMPLED_CODES = 1000
"""Pictures that motion editing is started from."""
FITTED_CODES = 4000
"""Pictures that the heads of a warm start are fitted to."""

LOG_EVERY = 100
"""Steps the progress bar averages over where no metrics are written."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended: the steps done in all, and why it stopped (`done`, `time`, `interrupted`)."""

    step: int
    reason: str


def learning_rate(config: TrainConfig, stage: Stage, done: int) -> float:
    """The rate of step number `done` of a stage, before the lazy-regularisation ratio."""
    optimiser = config.optimiser
    rate = stage.lr or optimiser.lr
    if done < optimiser.warmup:
        return rate * (done + 1) / optimiser.warmup
    falling = optimiser.decay * stage.steps
    into = done - (stage.steps - falling)
    return rate if into <= 0 or not falling else rate * 0.5 * (1 + math.cos(math.pi * min(1.0, into / falling)))


def trainable(module: nn.Module) -> list[nn.Parameter]:
    """Parameters that training may change."""
    return [p for p in module.parameters() if p.requires_grad]


def freeze_unused(network: DPENetwork) -> None:
    """Keep the checkpoint's unused entries out of training."""
    for module in network.modules():
        if isinstance(module, Unused):
            for parameter in module.parameters():
                parameter.requires_grad_(False)


def to_channels_last(module: nn.Module) -> None:
    """Lay out convolution weights with the channels innermost, as their inputs will be."""
    for parameter in module.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)


class Trainer:
    """A training run on this process, alone or as one of several that `torchrun` started.

    Args:
        config: what to do.
        resume: folder of a run to go on with, or None.
        share: which part of each batch this process takes.

    Raises:
        ConfigError: the output folder holds another run, batches do not split evenly, or the configuration contradicts
            the roles of the branches that the start file states, or that the run to go on with began with.
        CheckpointError: the start file or the run to go on with cannot be used.
    """

    def __init__(self, config: TrainConfig, resume: Path | None = None, share: Share | None = None) -> None:
        self.config, self.share = config, share or Share()
        self.folder = Path(config.out)
        config.check_parts(self.share.world)
        _refuse_another_run(self.folder, resume)
        saved = None if resume is None else load_state(resume)
        self.device = pick_device(config.device)
        self.dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
        torch.manual_seed(config.seed)
        if config.threads:
            torch.set_num_threads(config.threads)
        self.step = 0
        self.perceptual = self._load_perceptual()
        self.stage_index = -1
        start = self._start(warm=saved is None or config.of_twins)
        self.roles = choose_roles(config, start) if saved is None else kept_roles(config, saved[1])
        if not self.roles.known and self.share.rank == 0:
            logger.warning(
                "Neither the start file nor the data say which branch edits the pose, so checkpoints are saved without "
                "roles. Measure them with `roles --model CHECKPOINT`."
            )
        self._guard, self._discriminator_guard = GradientGuard("network"), GradientGuard("discriminator")
        self._enter_stage(0, start.network, None, None)
        if saved is not None:
            self._restore(*saved)

    # Construction ---------------------------------------------------------------------------------------------------

    def _load_perceptual(self) -> PerceptualLoss | None:
        weights = self.config.published, self.config.supervised
        wanted = weights[0].cycle_perceptual or weights[0].self_perceptual or weights[1].perceptual
        if not wanted or self.config.of_twins:
            return None
        loss = load_perceptual(self.config.vgg)
        return None if loss is None else loss.to(self.device, self.dtype)

    def _start(self, warm: bool) -> WarmStart:
        """The network of the first stage, fresh or (with `warm`) as the start file has it."""
        network = DPENetwork(self.config.network.at(self.config.stages[0].size))
        if self.config.start_as_copy:
            zero_flows(network)
            start_as_copy(network)
        if self.config.orthogonal_motion:
            orthogonal_motion(network)
        path = self.config.warm_start
        if not path or not warm:
            return WarmStart(network)
        start = warm_start(network, path, self.config.grow_as_copy)
        if self.config.of_twins and start.roles is None:
            raise ConfigError(
                f"warm_start: expected a DPE checkpoint to agree with, got LIA's {path}, which edits nothing."
            )
        if self.config.start_as_copy and start.roles is None:
            # Only LIA's encoder came, with colours of its own in place of those the generators were to read.
            read_first_layer(start.network, opened=1.0 / (1.0 + math.exp(-MASK_OPEN)))
        return start

    def _enter_stage(
        self, index: int, network: DPENetwork, heads: ParameterHeads | None, discriminator: Discriminator | None
    ) -> None:
        """Set up the models of a stage; optimisers start anew."""
        config, size = self.config, self.config.stages[index].size
        self.stage_index = index
        self.network = grow(network, config.network.at(size), config.grow_as_copy).to(self.device)
        if config.channels_last:
            to_channels_last(self.network)
        stage = config.stages[index]
        if stage.dark_holes:
            darken_holes(self.network, self.roles.exp)
        self.heads = (heads or ParameterHeads(config.network.style_dim)).to(self.device)
        self._choose_trained(stage)
        self.ema = copy.deepcopy(self.network).requires_grad_(False)
        self.twins: TwinTeacher | None = None
        if config.of_twins:
            # A run of twins has one stage, so this is the start file's network, also where the run goes on.
            self.twins = TwinTeacher(copy.deepcopy(self.network), config.twins).to(self.device)
        self.model = LossModel(self.network, self.heads, config, self.roles.pose, self.perceptual, self.twins)
        self.model.phase, self.model.branch = stage.phase, stage.branch or None
        self.generator_step = synchronised(GeneratorStep(self.model, self.dtype), self.share)
        self.optimiser = make_optimiser(trainable(self.model), config.optimiser, config.optimiser.generator_every)
        self.discriminator: Discriminator | None = None
        if config.adversarial:
            self._set_discriminator(discriminator, size)

    def _choose_trained(self, stage: Stage) -> None:
        """Let gradients reach what a stage trains."""
        self.heads.requires_grad_(not stage.branch)
        if stage.branch:
            self.network.requires_grad_(False)
            self.network.generator(stage.branch).requires_grad_(True)
        if stage.phase == "twins":
            self.heads.requires_grad_(False)
            teach_encoder(self.network)
        freeze_unused(self.network)
        if stage.phase != "edit":
            # The first layer hands the colours through; the generators rely on that later.
            self.network.enc.net_app.convs[0].requires_grad_(False)

    def _set_discriminator(self, discriminator: Discriminator | None, size: int) -> None:
        config = self.config
        widths = config.network.discriminator_widths(size)
        if discriminator is None:
            discriminator = Discriminator(size, widths)
        self.discriminator = grow_discriminator(discriminator, size, widths).to(self.device)
        if config.channels_last:
            to_channels_last(self.discriminator)
        step = DiscriminatorStep(self.discriminator, config.published, self.dtype)
        self.critic = FrozenCritic(step)
        self.discriminator_step = synchronised(step, self.share)
        # Adam always: orthogonal updates let a critic run away from its generator.
        settings = dataclasses.replace(config.optimiser, kind="adam")
        self.discriminator_optimiser = make_optimiser(
            trainable(self.discriminator), settings, config.optimiser.discriminator_every
        )
        local = config.stages[self.stage_index].batch // self.share.world // config.accumulate
        if local % STDDEV_GROUP:
            logger.warning(
                "The discriminator compares groups of %d samples; %d a process and part make smaller groups, so the "
                "number of processes changes the loss.",
                STDDEV_GROUP,
                local,
            )

    # The loop -------------------------------------------------------------------------------------------------------

    def run(self, quiet: bool = False) -> Outcome:
        """Train to the configured end, to the time limit, or until asked to stop; saves before it returns.

        With `quiet` there is no progress bar, whatever the configuration says.

        Raises:
            DataError: the samples cannot be had.
            DivergedError: the gradients were not finite for too long, or the weights are not; nothing was saved then.
        """
        config, started = self.config, time.monotonic()
        writer = MetricsWriter(self.folder, config.output.tensorboard) if self.share.rank == 0 else None
        hidden = quiet or self.share.rank != 0 or not config.output.progress
        saved = time.monotonic()
        reason = "done"
        with Interruption() as interruption, tqdm(total=config.steps, initial=self.step, disable=hidden) as progress:
            history: list[dict[str, Tensor]] = []
            batches = self._batches()
            if self.step == 0:
                self._start_heads()
                self._fill_motion()
            while self.step < config.steps:
                stage, _ = config.stage_at(self.step)
                if stage != self.stage_index:
                    self._advance(stage)
                    batches = self._batches()
                began = time.monotonic()
                batch = next(batches).to(self.device, config.channels_last)
                ready = time.monotonic()
                output, terms = self.train_step(batch)
                terms["seconds"] = torch.tensor(time.monotonic() - began)
                terms["seconds_data"] = torch.tensor(ready - began)
                history.append(terms)
                self.step += 1
                progress.update()
                if writer is not None:
                    self._report(writer, history, output, progress)
                else:
                    history.clear()
                now = time.monotonic()
                interrupted, late, clock = agreed(
                    self.share,
                    self.device,
                    interruption.requested,
                    0 < config.max_seconds < now - started,
                    0 < config.output.save_seconds < now - saved,
                )
                stop = "interrupted" if interrupted else "time" if late else ""
                if stop or clock or due(self.step, config.output.save_every) or self.step == config.steps:
                    self.save()
                    saved = time.monotonic()
                if stop:
                    reason = stop
                    break
        if writer is not None:
            writer.close()
        return Outcome(self.step, reason)

    def _start_heads(self) -> None:
        """Start the heads at the mean of what they are to tell, or at what a trained network's codes tell already.

        A bias would take hundreds of steps to that mean; and fresh heads would unteach a trained encoder.
        """
        if self.model.phase == "motion":
            if not all(source.rendered for source in self.config.sources):
                raise DataError("A motion stage needs rendered heads: sources of kind synthetic or render alone.")
            truths = torch.cat([batch.truths() for batch in self._joint_batches(SAMPLED_CODES)])
            self.heads.centre(truths.to(self.device))
        elif self.twins is not None:
            self._listen_to_teacher(self.twins)
        elif self.config.warm_start and any(s.rendered for s in self.config.sources):
            self._fit_heads()

    def _fit_heads(self) -> None:
        self._fit(*self._known_codes())

    def _fill_motion(self) -> None:
        """Give idle motion directions something to tell, where the current stage, which begins, asks for that."""
        if not self.config.stages[self.stage_index].fill_motion:
            return
        w, truths = self._known_codes()
        self._fit(w, truths)
        filled = fill_idle_motion(self.network, self.heads, w, self.roles.pose)
        logger.info("%d of %d motion directions were idle and are filled.", filled, self.network.config.motion_dim)
        self._fit(w, truths)  # the heads behind the codes
        self.ema.load_state_dict(self.network.state_dict())

    def _known_codes(self) -> tuple[Tensor, Tensor]:
        """Codes `w` [N, style_dim] of some thousand pictures of the current stage, and what is known of these."""
        found: list[tuple[Tensor, Tensor]] = []
        with torch.no_grad():
            for batch in self._joint_batches(FITTED_CODES):
                found.append((self._codes(self.network, batch.pictures(), len(batch)), batch.truths()))
        w, truths = zip(*found, strict=True)
        return torch.cat(w), torch.cat(truths)

    def _fit(self, w: Tensor, truths: Tensor) -> None:
        """Set the heads to what fits the network's codes `w` [N, style_dim] best."""
        with torch.no_grad():
            alpha = self.network.motion(w)
            pose, expression = (self.network.branch_code(alpha, b) for b in (self.roles.pose, self.roles.exp))
            self.heads.fit(w, pose, expression, truths.to(self.device))

    def _listen_to_teacher(self, twins: TwinTeacher) -> None:
        """Measure how the teacher's codes vary over twins, and set the heads to read them."""
        data = StepData(self.config.sources, self.config.stages[0].size, SAMPLED_CODES, self.config.seed, Share())
        batch = data[0]
        assert isinstance(batch, TwinBatch)
        with torch.no_grad():
            w = self._codes(twins.teacher, batch.plain, self.config.stages[0].batch)
            twins.measure(w)
        self._fit(w, batch.truths())

    def _advance(self, stage: int) -> None:
        """Go on to the next stage with the averaged network."""
        after_motion = self.model.phase == "motion"
        network = self.ema.requires_grad_(True)
        if after_motion and self.config.stages[stage].phase != "motion":
            start_motion(network, self.heads, self._sample_codes(network), self.roles.pose)
        self._enter_stage(stage, network, self.heads, self.discriminator)
        self._fill_motion()

    def _sample_codes(self, network: DPENetwork) -> Tensor:
        """Codes `w` [N, style_dim] of a thousand pictures of the current stage, the same on all processes."""
        found: list[Tensor] = []
        with torch.no_grad():
            for batch in self._joint_batches(SAMPLED_CODES):
                found.append(self._codes(network, batch.pictures(), len(batch)))
        return torch.cat(found)

    def _codes(self, network: DPENetwork, pictures: Tensor, batch: int) -> Tensor:
        """Codes `w` of pictures, no more at a time than this process has of a joint `batch` of so many."""
        most = max(1, batch // (self.share.world * self.config.accumulate))
        parts = (part.to(self.device) for part in pictures.split(most))
        return torch.cat([network.encode(part, with_features=False).w for part in parts])

    def _joint_batches(self, pictures: int) -> Iterator[SupervisedBatch]:
        """Whole batches of rendered heads of the current stage, as all processes share them: so many pictures."""
        stage = self.config.stages[self.stage_index]
        rendered = [source for source in self.config.sources if source.rendered]
        data = StepData(rendered, stage.size, stage.batch, self.config.seed, Share())
        step = self.step
        while pictures > 0:
            batch = data[step]
            assert isinstance(batch, SupervisedBatch)
            yield batch
            pictures -= 5 * len(batch)
            step += 1

    def _batches(self) -> Iterator[Batch]:
        config = self.config
        stage = config.stages[self.stage_index]
        end = sum(s.steps for s in config.stages[: self.stage_index + 1])
        data = StepData(
            config.sources, stage.size, stage.batch, config.seed, self.share, config.supervised.self_fraction
        )
        return step_batches(data, self.step, end, config.workers)

    def train_step(self, batch: Batch) -> tuple[StepOutput, dict[str, Tensor]]:
        """One step of generator and discriminator. Returns the last part's output, and the terms over all processes."""
        config = self.config
        judged = self.model.phase == "edit" and self.step >= config.adversarial_from
        critic = self.critic if self.discriminator is not None and judged else None
        self._set_rates()
        parts = batch.chunk(config.accumulate)
        outputs: list[StepOutput] = []
        if self.discriminator is not None:
            self.discriminator.requires_grad_(False)
        self.optimiser.zero_grad(set_to_none=True)
        for i, part in enumerate(parts):
            with self._synchronised(self.generator_step, i == len(parts) - 1):
                output = self.generator_step(part, self.step, critic)
                (output.total / len(parts)).backward()
            outputs.append(output)
        terms = mean_of([{"loss": o.total.detach(), **{k: v.detach() for k, v in o.terms.items()}} for o in outputs])
        # Gradients are those of all processes by now, so all of them decide alike.
        norm = nn.utils.clip_grad_norm_(trainable(self.model), config.optimiser.clip or math.inf).detach()
        if config.optimiser.clip:
            terms["gradient_norm"] = norm
        updated = self._guard.allows(norm, self.step)
        if updated:
            self.optimiser.step()
        if critic is not None and any(self._weight_of(p) for p in parts):
            terms["discriminator"] = self._discriminator_step(outputs)
        if updated:
            self._average()
        return outputs[-1], self._reduce(terms)

    def _weight_of(self, batch: Batch) -> float:
        supervised = isinstance(batch, SupervisedBatch)
        return self.config.supervised.adversarial if supervised else self.config.published.adversarial

    def _discriminator_step(self, outputs: list[StepOutput]) -> Tensor:
        assert self.discriminator is not None
        weights = self.config.published
        self.discriminator.requires_grad_(True)
        self.discriminator_optimiser.zero_grad(set_to_none=True)
        penalise = weights.r1 > 0 and due(self.step, weights.r1_every)
        losses = []
        for i, output in enumerate(outputs):
            with self._synchronised(self.discriminator_step, i == len(outputs) - 1):
                loss = self.discriminator_step(output.fakes, output.reals, penalise)
                (loss / len(outputs)).backward()
            losses.append(loss.detach())
        norm = nn.utils.clip_grad_norm_(trainable(self.discriminator), math.inf)
        if self._discriminator_guard.allows(norm, self.step):
            self.discriminator_optimiser.step()
        return torch.stack(losses).mean()

    def _synchronised(self, module: nn.Module, last: bool) -> contextlib.AbstractContextManager[None]:
        """Gradients are exchanged with the last part only."""
        if isinstance(module, DistributedDataParallel) and not last:
            return module.no_sync()
        return contextlib.nullcontext()

    def _set_rates(self) -> None:
        config = self.config
        stage, done = config.stage_at(self.step)
        rate = learning_rate(config, config.stages[stage], done)
        for group in self.optimiser.param_groups:
            group["lr"] = rate * _ratio(config.optimiser.generator_every)
        if self.discriminator is not None:
            for group in self.discriminator_optimiser.param_groups:
                group["lr"] = rate * _ratio(config.optimiser.discriminator_every)

    def _average(self) -> None:
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            averaged = [p.detach() for p in self.ema.parameters()]
            current = [p.detach() for p in self.network.parameters()]
            torch._foreach_lerp_(averaged, current, 1.0 - decay)

    def _reduce(self, terms: dict[str, Tensor]) -> dict[str, Tensor]:
        if self.share.world == 1:
            return terms
        names = sorted(terms)
        values = torch.stack([terms[n].float() for n in names])
        dist.all_reduce(values)
        return dict(zip(names, values / self.share.world, strict=True))

    # Reports and files ----------------------------------------------------------------------------------------------

    def _report(
        self, writer: MetricsWriter, history: list[dict[str, Tensor]], output: StepOutput, progress: Any
    ) -> None:
        settings = self.config.output
        if due(self.step, settings.log_every or LOG_EVERY):
            means = mean_terms(history)
            history.clear()
            if settings.log_every:
                writer.scalars(self.step, {**means, "lr": self.optimiser.param_groups[0]["lr"]})
            progress.set_postfix(loss=f"{means['loss']:.3f}", refresh=False)
        if due(self.step, settings.sheet_every):
            writer.sheet(self.step, output.images)

    def save(self) -> None:
        """Write the averaged network as a checkpoint, and the state to go on from. Only the first process does.

        Raises:
            DivergedError: the weights are not finite; what was saved before stays.
        """
        check_finite({**module_tensors(self.network, "network"), **module_tensors(self.ema, "ema")}, "save")
        if self.share.rank == 0:
            path = self.folder / f"checkpoint-{self.step:07d}.safetensors"
            save_checkpoint(path, self.ema, self.roles.stated, self._metadata())
            save_state(self.folder, self._tensors(), self._scalars())
            for old in sorted(self.folder.glob("checkpoint-*.safetensors"))[: -max(1, self.config.output.keep)]:
                old.unlink()
        if self.share.world > 1:
            dist.barrier()

    def _metadata(self) -> dict[str, str]:
        config = self.config
        entries = {"title": config.title, "license": config.license, "step": str(self.step)}
        entries["training"] = json.dumps(shareable(config))
        return {k: v for k, v in entries.items() if v}

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {
            **module_tensors(self.network, "network"),
            **module_tensors(self.ema, "ema"),
            **module_tensors(self.heads, "heads"),
            **optimiser_tensors(self.optimiser, "optimiser"),
            "rng": torch.get_rng_state(),
        }
        if self.twins is not None:
            tensors |= module_tensors(self.twins, "twins")
        if self.discriminator is not None:
            tensors |= module_tensors(self.discriminator, "discriminator")
            tensors |= optimiser_tensors(self.discriminator_optimiser, "discriminator_optimiser")
        return tensors

    def _scalars(self) -> dict[str, Any]:
        roles = dataclasses.asdict(self.roles)
        return {"step": self.step, "stage": self.stage_index, "roles": roles, "config": config_values(self.config)}

    def _restore(self, tensors: Mapping[str, Tensor], scalars: Mapping[str, Any]) -> None:
        stage = int(scalars["stage"])
        check_resumed(self.config, scalars["config"], stage)
        if stage:
            network = DPENetwork(self.config.network.at(self.config.stages[stage].size))
            self._enter_stage(stage, network, None, None)
        restore_module(self.network, tensors, "network")
        restore_module(self.ema, tensors, "ema")
        restore_module(self.heads, tensors, "heads")
        restore_optimiser(self.optimiser, tensors, "optimiser")
        if self.twins is not None:
            restore_module(self.twins, tensors, "twins")
        if self.discriminator is not None:
            restore_module(self.discriminator, tensors, "discriminator")
            restore_optimiser(self.discriminator_optimiser, tensors, "discriminator_optimiser")
        torch.set_rng_state(tensors["rng"])
        self.step = int(scalars["step"])


def _refuse_another_run(out: Path, resume: Path | None) -> None:
    """See that a run does not write over another one's files. Raises ConfigError."""
    if resume is not None and resume.resolve() == out.resolve():
        return
    if (out / SCALARS).exists() or any(out.glob("checkpoint-*.safetensors")):
        raise ConfigError(
            f"out: expected a folder without a run, but {out} holds one. Go on with it (--resume {out}), or choose "
            "another folder (out=...)."
        )


def shareable(config: TrainConfig) -> dict[str, Any]:
    """The configuration as plain values, without the places of this machine: of paths only the last part stays."""
    values = config_values(config)
    for key in ("out", "vgg", "warm_start"):
        values[key] = Path(values[key]).name
    for source in values["sources"]:
        source["path"] = Path(source["path"]).name
    return values


def mean_of(terms: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Averages of scalars by name over the parts of a batch."""
    return {k: torch.stack([t[k] for t in terms]).mean() for k in terms[0]}


def _ratio(every: int) -> float:
    return every / (every + 1)
