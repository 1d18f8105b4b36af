"""What a training run is: read from a TOML or JSON file, checked, with two presets of loss weights."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from ..errors import DPEError
from ..network import NetworkConfig

T = TypeVar("T")


class ConfigError(DPEError):
    """A training configuration cannot be used: unknown key, wrong type, or values that do not fit together."""


@dataclass(frozen=True)
class PublishedWeights:
    """Weights of the published losses on pairs of frames of one clip; the defaults are the published ones.

    `discriminator` weights the discriminator's own loss. `r1` (0 as published) weights a gradient penalty, added every
    `r1_every` steps and multiplied by as many.
    """

    cycle_perceptual: float = 1.0
    halfway_perceptual: float = 2.0
    self_perceptual: float = 2.0
    cycle_l1: float = 2.0
    halfway_l1: float = 1.0
    self_l1: float = 1.0
    adversarial: float = 1.0
    discriminator: float = 10.0
    r1: float = 0.0
    r1_every: int = 16


@dataclass(frozen=True)
class SupervisedWeights:
    """Weights of the losses on rendered heads, whose true half-way pictures are known.

    Attributes:
        l1: picture pyramid L1 of each branch against its true picture.
        edge: L1 between neighbouring-pixel differences.
        perceptual: VGG19 perceptual loss, where weights are named.
        both: the above on the picture that went through both branches, relative to the single ones.
        both_every: steps between those; they cost an encoding and a rendering. 0 = never.
        adversarial: non-saturating loss on each branch's pictures.
        flow: distance of every flow level from the true correspondence, in half pictures, where that is visible.
        flow_region: how much more the flow counts where the edit moves something, 0 = as anywhere else. An expression
            moves little of the picture.
        flow_shape: weight of the differences between neighbouring points' flow errors, relative to that of the errors.
            A face that is fetched whole keeps its expression, even where it is put a little wrong.
        flow_focus: weight of the flow at brows, at eyes and at the mouth, each relative to that of a whole picture in
            which nothing moves: lids are small. 0 = as anywhere else.
        flow_reach: how much more the flow of expressions counts where it falls short of the truth than where it goes
            too far. What is hard to see is followed by half otherwise, as nearest to all that it could be.
        mask: opens the mask where the source shows the point, up to 95 %.
        pose: regression of the pose parameters from the pose branch's code.
        expression: regression of the expression parameters from the expression branch's code.
        picture: regression of pose, expression and landmarks from the encoder's code `w`, relative to their own
            weights in a `motion` stage.
        reading: pose, expression and landmarks that the encoder reads off each branch's pictures, against what it reads
            off the true ones, relative to their weights in a `motion` stage.
        features: the encoder's features likewise: a perceptual loss that needs no other network's weights.
        shortfall: what is missing of the movement of brows, eyes and mouth in edits of the expression, each relative to
            its own, read likewise.
        reading_every: steps between those; they cost two encodings, and half the work of teaching them. 0 = never.
        leak: pose code that changes with the expression alone, and the reverse.
        leak_every: steps between those; they cost two encodings. 0 = never.
        region: how much more pixels count that the edit changes, 0 = as any other.
        focus: weight of the pixels of brows, of eyes and of the mouth, likewise.
        hidden: weight of all pixels together that show what the source hides (the inside of a mouth that opens, eyes
            that were shut, what a turn brings into view), relative to that of a whole picture. They are few, and must
            be painted. 0 = as any other.
        close: of a generator with dark holes, how far the last mask is from the side, open or closed, that is nearer
            the truth (`holes.closing_loss`).
        self_fraction: share of a batch driven by its own source, whose true picture is the source.
    """

    l1: float = 10.0
    edge: float = 5.0
    perceptual: float = 0.1
    both: float = 1.0
    both_every: int = 4
    adversarial: float = 0.0
    flow: float = 5.0
    flow_region: float = 0.0
    flow_shape: float = 0.0
    flow_focus: float = 0.0
    flow_reach: float = 0.0
    mask: float = 0.05
    pose: float = 0.5
    expression: float = 0.5
    picture: float = 0.0
    reading: float = 0.0
    features: float = 0.0
    shortfall: float = 0.0
    reading_every: int = 1
    leak: float = 0.1
    leak_every: int = 4
    region: float = 4.0
    focus: float = 0.0
    hidden: float = 0.0
    close: float = 0.0
    self_fraction: float = 0.125


@dataclass(frozen=True)
class TwinWeights:
    """Weights of the losses of a stage of twins.

    Attributes:
        code: each branch's code against the teacher's of the twin, in standard deviations.
        w: the rest of the encoder's code against the teacher's of the picture, relative to its variance.
        reading: the expression as a linear reading of the teacher's codes has it, against the truth.
        features: the encoder's features against the teacher's of the picture.
    """

    code: float = 1.0
    w: float = 2.0
    reading: float = 1.0
    features: float = 1.0


@dataclass(frozen=True)
class NetworkSettings:
    """Widths of the network; `channels` by resolution covers the largest stage. Empty = the published widths."""

    style_dim: int = 512
    motion_dim: int = 20
    channels: Mapping[str, int] = field(default_factory=dict)
    discriminator_channels: Mapping[str, int] = field(default_factory=dict)

    def widths(self, size: int) -> dict[int, int]:
        """Network widths by resolution up to `size`."""
        return _widths(self.channels, size)

    def discriminator_widths(self, size: int) -> dict[int, int]:
        """Discriminator widths by resolution up to `size`; by default the network's."""
        return _widths(self.discriminator_channels or self.channels, size)

    def at(self, size: int) -> NetworkConfig:
        """The network's configuration for pictures of `size` px."""
        return NetworkConfig(size, self.style_dim, self.motion_dim, self.widths(size))


def _widths(channels: Mapping[str, int], size: int) -> dict[int, int]:
    if not channels:
        return dict(NetworkConfig.published(size).channels)
    return {int(r): c for r, c in channels.items() if int(r) <= size}


Phase = Literal["edit", "flow", "motion", "twins"]
FLOW_SIZE = 64
"""Largest level of a generator that a `flow` stage trains, px: lids are too small for coarser ones, and for most of a
face finer ones add little."""


@dataclass(frozen=True)
class Stage:
    """One resolution of progressive growth.

    Attributes:
        size: side of the pictures in pixels.
        phase: `edit` trains everything on edits, or one `branch`; `motion` trains the encoder alone, to tell pose,
            expression and landmarks of rendered heads. The stage after it starts with motion editing worked out from
            that. `flow` trains encoder and generators up to `FLOW_SIZE` px on true positions alone: at half the cost
            of a step of edits, since whole pictures are what takes long. `twins` trains the encoder alone, on sources
            of kind twins: whatever people's eyes are like, their motion is to be told as the network of `warm_start`
            tells it of their twins (see `twins.py`).
        branch: `pose` or `exp`: an `edit` stage trains this branch's generator alone, on rendered heads. Encoder,
            motion editing and the other generator stay to the bit, and a step takes a third of the time.
        dark_holes: begin with an expression generator that shows black where a mask closes, and whose masks can close
            (see `holes.py`).
        fill_motion: begin with motion directions that tell nothing filled with what the codes leave out of the
            expression (see `idle_motion.py`). For rendered heads, and a network that tells expressions already.
        steps: how many steps it lasts.
        batch: samples a step, over all processes.
        lr: learning rate at its start; 0 takes the optimiser's.
    """

    size: int = 256
    steps: int = 800_000
    batch: int = 64
    lr: float = 0.0
    phase: Phase = "edit"
    branch: Literal["", "pose", "exp"] = ""
    dark_holes: bool = False
    fill_motion: bool = False


@dataclass(frozen=True)
class Source:
    """Where samples come from.

    Attributes:
        kind: `synthetic` (folder of rendered shards), `render` (rendered on the fly from a head model), `twins` (pairs
            of pictures that differ in the eyes alone, rendered on the fly likewise, for a stage of that name), `clips`
            (folder of videos or of folders of frames), `lmdb` (the published code's layout).
        path: the folder, or for `render` and `twins` the head model.
        share: how often a step takes its batch from here, relative to the other sources.
        flip: mirror half of the samples (clips and lmdb only; parameters of rendered heads know no mirror).
        jitter: strength of random brightness, contrast and colour, the same for all pictures of a sample (of rendered
            heads the driver has its own, and twins know none); 0 = none.
    """

    kind: Literal["synthetic", "render", "twins", "clips", "lmdb"] = "clips"
    path: str = ""
    share: float = 1.0
    flip: bool = True
    jitter: float = 0.0

    @property
    def rendered(self) -> bool:
        """Whether these are rendered heads, of which everything is known."""
        return self.kind in ("synthetic", "render")


@dataclass(frozen=True)
class Optimiser:
    """Adam as published: `lr` and betas are raised by the lazy-regularisation ratios n / (n + 1).

    Attributes:
        kind: `adam`, or `muon` for matrices with Adam for the rest.
        lr: learning rate before its ratio.
        momentum: of Muon.
        beta1, beta2: before their ratios.
        generator_every, discriminator_every: n of the ratios.
        warmup: steps of each stage over which the rate rises from zero.
        decay: share of a stage's end over which the rate falls to zero along a cosine.
        clip: largest gradient norm, 0 = unlimited.
    """

    kind: Literal["adam", "muon"] = "adam"
    lr: float = 0.002
    momentum: float = 0.95
    beta1: float = 0.0
    beta2: float = 0.99
    generator_every: int = 4
    discriminator_every: int = 16
    warmup: int = 0
    decay: float = 0.0
    clip: float = 0.0


@dataclass(frozen=True)
class Output:
    """What a run writes, and how often: 0 = never. Whatever it says, a run saves when it ends.

    Attributes:
        log_every: steps between lines of metrics, which are means over those steps.
        sheet_every: steps between sheets of pictures.
        save_every: steps between saves: a checkpoint, and the state to go on from.
        save_seconds: save this long after the last save as well.
        keep: how many of the newest checkpoints stay; 0 keeps one, like 1.
        tensorboard: write metrics and sheets as TensorBoard events, too, where the package is installed.
        progress: show a progress bar.
    """

    log_every: int = 20
    sheet_every: int = 500
    save_every: int = 1000
    save_seconds: float = 600.0
    keep: int = 2
    tensorboard: bool = True
    progress: bool = True


@dataclass(frozen=True)
class TrainConfig:
    """A whole training run.

    Attributes:
        out: folder for checkpoints, logs and sheets.
        preset: starting point for loss weights, optimiser and averaging: `published`, or `rendered` for the bundled
            model.
        network: widths of the network and of the discriminator.
        stages: what is trained at which size and for how long, in this order.
        sources: where samples come from; each step draws one of them.
        published, supervised, twins: weights of the losses on pairs of frames, on rendered heads and on twins.
        optimiser: how the weights follow the gradients.
        output: what is written and how often.
        warm_start: a checkpoint of this package or of the authors to start from, or LIA's `vox.pt`. The regression
            heads, which no checkpoint holds, are fitted to its codes where there are rendered heads to tell from.
        vgg: VGG19 weights for the perceptual loss; empty = off.
        pose_branch: which branch the supervised losses teach the pose, by its checkpoint name; empty = as in the warm
            start's file, else `pose`. Where neither that file nor rendered heads say which branch is which, the
            checkpoints do not, either.
        adversarial_from: step of the run, over all stages, from which the discriminator is trained and listened to.
        ema: decay of the averaged weights, 0 = no averaging. The average warms up over the first steps.
        start_as_copy: start with still flows, open masks, and colours handed through: the network copies its source.
            With LIA's encoder the colours are read off its first layer as well as a linear map can.
        grow_as_copy: on growing, read the colours from the source warped at the new size (sharp, with the flow learned
            so far) instead of up-sampling those of the smaller network's picture.
        orthogonal_motion: start the linear stacks of motion editing as rotations instead of Gaussian.
        precision: `bf16` runs the convolutions in bfloat16; codes, styles, flow and sums of RGB stay float32.
        channels_last: lay out pictures and convolution weights with the channels innermost.
        device: `auto`, `cpu`, `cuda`, ...; under `torchrun`, `auto` and `cuda` mean each process's own GPU.
        threads: CPU threads, 0 = PyTorch's choice.
        workers: processes that prepare batches ahead, for each process that trains; 0 = it prepares them itself.
        accumulate: split each process's batch into this many parts of one size: processes times parts must divide the
            batches of all stages.
        seed: decides fresh weights and all samples.
        max_seconds: stop after this long (resumable), 0 = no limit.
        title, license: written into the checkpoint.
    """

    out: str = "runs/dpe"
    preset: Literal["published", "rendered"] = "published"
    network: NetworkSettings = field(default_factory=NetworkSettings)
    stages: tuple[Stage, ...] = (Stage(),)
    sources: tuple[Source, ...] = ()
    published: PublishedWeights = field(default_factory=PublishedWeights)
    supervised: SupervisedWeights = field(default_factory=SupervisedWeights)
    twins: TwinWeights = field(default_factory=TwinWeights)
    optimiser: Optimiser = field(default_factory=Optimiser)
    output: Output = field(default_factory=Output)
    warm_start: str = ""
    vgg: str = ""
    pose_branch: Literal["", "pose", "exp"] = ""
    adversarial_from: int = 0
    ema: float = 0.999
    start_as_copy: bool = True
    grow_as_copy: bool = True
    orthogonal_motion: bool = True
    precision: Literal["fp32", "bf16"] = "fp32"
    channels_last: bool = False
    device: str = "auto"
    threads: int = 0
    workers: int = 0
    accumulate: int = 1
    seed: int = 0
    max_seconds: float = 0.0
    title: str = ""
    license: str = ""

    def __post_init__(self) -> None:
        sizes = [s.size for s in self.stages]
        if not sizes:
            raise ConfigError("stages: expected at least one, got none. Add [[stages]] with size, steps and batch.")
        for stage in self.stages:
            if stage.size < 8 or stage.size & (stage.size - 1):
                raise ConfigError(f"stages: expected sizes that are powers of two of at least 8, got {stage.size}.")
            if stage.steps < 1 or stage.batch < 1:
                raise ConfigError(f"stages: expected steps and batch of at least 1, got {stage}.")
            if stage.branch and stage.phase != "edit":
                raise ConfigError(f"stages: expected a branch in an edit stage only, got one in {stage.phase!r}.")
            if stage.fill_motion and (stage.phase not in ("edit", "flow") or not any(s.rendered for s in self.sources)):
                raise ConfigError(
                    "stages: expected fill_motion in an edit or flow stage with rendered heads, got it in a stage of "
                    f"phase {stage.phase!r} with sources of kinds {sorted({s.kind for s in self.sources})}."
                )
        if sizes != sorted(sizes):
            raise ConfigError(f"stages: expected sizes that do not shrink, got {sizes}.")
        self._check_twins()
        if self.accumulate < 1:
            raise ConfigError(f"accumulate: expected at least 1, got {self.accumulate}.")
        if not 0.0 <= self.ema < 1.0:
            raise ConfigError(f"ema: expected a decay from 0 to below 1, got {self.ema}.")
        self._check_networks()

    def _check_twins(self) -> None:
        phases, kinds = {stage.phase for stage in self.stages}, {source.kind for source in self.sources}
        if "twins" not in phases | kinds:
            return
        if phases != {"twins"} or kinds - {"twins"}:
            raise ConfigError(
                "stages: expected a run of twins to have stages of phase twins and sources of kind twins alone, got "
                f"phases {sorted(phases)} and kinds {sorted(kinds)}. Give the twins a run of their own."
            )
        if not self.warm_start:
            raise ConfigError(
                "warm_start: expected the checkpoint that a stage of twins is to agree with, got none. Name one."
            )
        if len(self.stages) > 1:
            raise ConfigError(
                f"stages: expected a run of twins to have one stage, got {len(self.stages)}. Start another run from "
                "its checkpoint."
            )

    def _check_networks(self) -> None:
        try:
            for stage in self.stages:
                self.network.at(stage.size)
        except ValueError as error:
            raise ConfigError(f"network: {error}") from error

    @property
    def of_twins(self) -> bool:
        """Whether this is a run of twins."""
        return self.stages[0].phase == "twins"

    @property
    def steps(self) -> int:
        """Steps of all stages together."""
        return sum(s.steps for s in self.stages)

    @property
    def adversarial(self) -> bool:
        """Whether a discriminator is trained."""
        return self.published.adversarial > 0 or self.supervised.adversarial > 0

    def check_parts(self, processes: int) -> None:
        """See that every batch splits evenly. Raises ConfigError."""
        parts = processes * self.accumulate
        for index, stage in enumerate(self.stages):
            if stage.batch % parts:
                raise ConfigError(
                    f"stages.{index}.batch: expected a multiple of {parts} ({processes} processes with accumulate = "
                    f"{self.accumulate} parts each), got {stage.batch}. Change batch, accumulate or the number of "
                    "processes."
                )

    def stage_at(self, step: int) -> tuple[int, int]:
        """Index of the stage that step number `step` (from 0) belongs to, and the steps done in it before."""
        for index, stage in enumerate(self.stages):
            if step < stage.steps or index == len(self.stages) - 1:
                return index, step
            step -= stage.steps
        raise AssertionError("a configuration has at least one stage")


PRESETS: Mapping[str, Mapping[str, Any]] = {
    "published": {},
    "rendered": {
        "published": {"adversarial": 0.0},
        "optimiser": {"beta1": 0.5, "warmup": 100, "decay": 0.3, "clip": 5.0},
        "ema": 0.998,
    },
}
"""Values a preset changes; whatever the file says comes on top."""


def due(step: int, every: int) -> bool:
    """Whether what comes every so many steps comes at step number `step`; 0 = never."""
    return every > 0 and step % every == 0


def load_values(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """What a configuration file and `overrides` say, as plain values for `config_from`.

    Args:
        path: .toml or .json.
        overrides: `key=value` with dotted keys (`optimiser.lr=0.001`, `stages.0.steps=10`); values are JSON, else text.

    Raises:
        ConfigError: no such file, not parsable, or an override that is none; the message names it.
    """
    values = _read(Path(path))
    for text in overrides:
        apply_override(values, text)
    return values


def config_from(values: Mapping[str, Any]) -> TrainConfig:
    """A configuration from plain values, the preset they name applied underneath.

    Raises:
        ConfigError: an unknown key, a value of the wrong kind, or values that do not fit together; the message says so.
    """
    preset = values.get("preset", "published")
    if preset not in PRESETS:
        raise ConfigError(f"preset: expected one of {sorted(PRESETS)}, got {preset!r}.")
    return build(TrainConfig, _merge(PRESETS[preset], values))


def config_values(config: TrainConfig) -> dict[str, Any]:
    """The configuration as plain values, as `config_from` reads them."""
    return dataclasses.asdict(config)


def _merge(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in top.items():
        below = merged.get(key)
        merged[key] = _merge(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ConfigError(f"{path}: expected a configuration file, found none. Check --config.")
    text = path.read_text(encoding="utf-8")
    try:
        loaded = json.loads(text) if path.suffix == ".json" else _toml(text)
    except ValueError as error:
        raise ConfigError(
            f"{path}: expected {path.suffix[1:].upper() or 'TOML'}, could not parse it ({error})."
        ) from error
    if not isinstance(loaded, dict):
        raise ConfigError(f"{path}: expected a table of settings, got {type(loaded).__name__}.")
    return loaded


def _toml(text: str) -> dict[str, Any]:
    try:
        import tomllib
    except ModuleNotFoundError as error:
        raise ConfigError("TOML needs Python 3.11 or later. Write the configuration as .json instead.") from error
    return tomllib.loads(text)


def apply_override(values: dict[str, Any], text: str) -> None:
    """Set one dotted `key=value` in nested values. Raises ConfigError where it is none."""
    key, separator, raw = text.partition("=")
    if not separator or not key:
        raise ConfigError(f"expected an override key=value, got {text!r}.")
    try:
        value = json.loads(raw)
    except ValueError:
        value = raw
    *parents, last = key.split(".")
    node: Any = values
    for name in parents:
        node = _child(node, name, key)
    if isinstance(node, list):
        node[_position(node, last, key)] = value
    else:
        node[last] = value


def _child(node: Any, name: str, key: str) -> Any:
    if isinstance(node, list):
        return node[_position(node, name, key)]
    child = node.setdefault(name, {})
    if not isinstance(child, dict | list):
        raise ConfigError(f"{key}: {name} is a single value, not a table.")
    return child


def _position(node: list[Any], name: str, key: str) -> int:
    if not name.isdigit() or int(name) >= len(node):
        raise ConfigError(f"{key}: expected a position from 0 to {len(node) - 1}, got {name!r}.")
    return int(name)


def build(kind: type[T], values: Mapping[str, Any], where: str = "") -> T:
    """A dataclass from plain values, nested ones too. Raises ConfigError on unknown keys and wrong kinds of values."""
    hints = typing.get_type_hints(kind)
    fields = {f.name: hints[f.name] for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for key in values:
        if key not in fields:
            raise ConfigError(f"unknown key {where}{key}. Known here: {', '.join(sorted(fields))}.")
    return kind(**{k: _convert(fields[k], v, f"{where}{k}") for k, v in values.items()})


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        if value not in args:
            raise ConfigError(f"{where}: expected one of {list(args)}, got {value!r}.")
        return value
    if origin in (typing.Union, types.UnionType):
        raise ConfigError(f"{where}: settings with several types are not supported.")
    if dataclasses.is_dataclass(hint):
        _expect(isinstance(value, Mapping), where, "a table", value)
        return build(typing.cast(type, hint), value, f"{where}.")
    if origin is tuple:
        _expect(isinstance(value, Sequence) and not isinstance(value, str), where, "a list", value)
        return tuple(_convert(args[0], v, f"{where}[{i}]") for i, v in enumerate(value))
    if origin is not None:
        _expect(isinstance(value, Mapping), where, "a table", value)
        return {str(k): _convert(args[1], v, f"{where}.{k}") for k, v in value.items()}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    _expect(isinstance(value, hint) and (hint is bool or not isinstance(value, bool)), where, hint.__name__, value)
    return value


def _expect(met: bool, where: str, what: str, value: object) -> None:
    if not met:
        raise ConfigError(f"{where}: expected {what}, got {value!r}.")
