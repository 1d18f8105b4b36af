"""Samples for training: pairs of frames of one clip, and tuples of rendered heads with their truth.

Sample number n of a run is a function of the seed and n alone. So a resumed run goes on with the very samples a
straight one would have seen, and several processes share a joint batch without talking to each other.
"""

from __future__ import annotations

import atexit
import dataclasses
import io
import logging
import os
import signal
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.sharedctypes import RawValue
from pathlib import Path
from types import FrameType
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..errors import DPEError, FrameError
from ..frames import check_square, to_network
from .config import Source
from .framing import framing
from .landmarks import BROWS, EYES, JAW, MOUTH, NOSE

logger = logging.getLogger(__name__)

VIDEO_ENDINGS = frozenset(
    {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".gif", ".mpg", ".mpeg", ".ts", ".mts", ".wmv", ".flv", ".ogv"}
)
"""What counts as a video among clips."""

KEPT_BYTES = 1024**3
"""Memory for the frames of clips, in every process that reads them."""

POSE_OFFSET = (0.0, 0.0, 0.0, 0.22, 0.0, 0.15)
POSE_UNIT = (16.0, 9.0, 6.0, 0.03, 0.27, 0.18)
"""Yaw, pitch, roll in degrees, the face's `framing`: what counts as zero, and about one standard deviation."""

SHAPE_UNIT = {JAW: 0.3, BROWS: 0.2, NOSE: 0.1, EYES: 0.1, MOUTH: 0.5}
GAZE_UNIT = (10.0, 6.0)
"""The same of a landmark's displacement by the expression, cm, by part (were they measured alike, lids would hardly
count beside a mouth), and of gaze yaw and pitch, degrees."""

LANDMARK_UNIT = 0.06
"""The same of landmarks' places in a picture, in half pictures."""

POSE_DIM, EXPRESSION_DIM, LANDMARK_DIM = 6, 68 * 3 + 2, 68 * 2
"""Numbers that tell a pose, an expression (68 landmarks' displacements, gaze), and where the landmarks are."""

B = TypeVar("B", bound="TensorBatch")


class DataError(DPEError):
    """Training data cannot be used: missing, empty, or of another layout; the message names the path."""


@dataclass(frozen=True)
class TensorBatch:
    """A batch whose fields are tensors [N, ...] or None."""

    def _map(self: B, change: Any) -> B:
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return type(self)(**{k: None if v is None else change(v) for k, v in values.items()})

    def to(self: B, device: torch.device, channels_last: bool = False) -> B:
        """The same on a device."""

        def move(t: Tensor) -> Tensor:
            last = channels_last and t.ndim == 4
            return t.to(device, memory_format=torch.channels_last) if last else t.to(device)

        return self._map(move)

    def chunk(self: B, parts: int) -> list[B]:
        """Every `parts`-th sample from 0, from 1, ...: the order that keeps the discriminator's groups together."""
        return [self._map(lambda t, i=i: t[i::parts]) for i in range(parts)]

    @classmethod
    def stack(cls: type[B], batches: Sequence[B]) -> B:
        """Batches one after the other."""
        joined: dict[str, Tensor | None] = {}
        for f in dataclasses.fields(cls):
            values = [getattr(b, f.name) for b in batches]
            joined[f.name] = None if any(v is None for v in values) else torch.cat(values)
        return cls(**joined)


@dataclass(frozen=True)
class PairBatch(TensorBatch):
    """Two frames of one clip: `a` and `b` [N, 3, S, S] in -1..1."""

    a: Tensor
    b: Tensor

    def __len__(self) -> int:
        return len(self.a)


@dataclass(frozen=True)
class SupervisedBatch(TensorBatch):
    """Rendered heads with the truth of every edit. A(p1, e1) is person A at pose p1 with expression e1.

    Pictures are [N, 3, S, S] in -1..1. Flows give, for each pixel of a target, where that surface point lies in
    `source`: x and y in -1..1 between the picture's edges, as `grid_sample` with align_corners=False reads them.

    Attributes:
        source: A(p1, e1).
        driver: D(p2, e2), D being A or somebody else.
        pose_target: A(p2, e1).
        exp_target: A(p1, e2).
        both_target: A(p2, e2).
        source_pose, driver_pose: [N, 6] yaw, pitch, roll and `framing`, in about standard deviations.
        source_expression, driver_expression: [N, K] what the expression does to the mean head's landmarks, and gaze,
            likewise.
        pose_flow, exp_flow, both_flow: [N, 2, s, s], s up to S.
        pose_visible, exp_visible, both_visible: [N, 1, s, s], share of the pixel seen in `source`.
        landmarks: [N, 5, L] places of the landmarks in source, driver, pose, expression and both target, in
            `LANDMARK_UNIT`.
    """

    source: Tensor
    driver: Tensor
    pose_target: Tensor
    exp_target: Tensor
    both_target: Tensor
    source_pose: Tensor
    driver_pose: Tensor
    source_expression: Tensor
    driver_expression: Tensor
    pose_flow: Tensor | None = None
    exp_flow: Tensor | None = None
    both_flow: Tensor | None = None
    pose_visible: Tensor | None = None
    exp_visible: Tensor | None = None
    both_visible: Tensor | None = None
    landmarks: Tensor | None = None

    def pictures(self) -> Tensor:
        """All five pictures, one kind after the other: [5 N, 3, S, S]."""
        return torch.cat((self.source, self.driver, self.pose_target, self.exp_target, self.both_target))

    def truths(self) -> Tensor:
        """What is known of `pictures`: pose, expression, landmarks, [5 N, P + K + L]. Needs landmarks."""
        assert self.landmarks is not None
        pose = torch.cat([(self.source_pose, self.driver_pose)[i] for i in (0, 1, 1, 0, 1)])
        expression = torch.cat([(self.source_expression, self.driver_expression)[i] for i in (0, 1, 0, 1, 1)])
        return torch.cat((pose, expression, self.landmarks.transpose(0, 1).flatten(0, 1)), 1)

    def __len__(self) -> int:
        return len(self.source)


@dataclass(frozen=True)
class TwinBatch(TensorBatch):
    """Rendered heads, and each of them with the head model's own eyes.

    Attributes:
        picture, plain: [N, 3, S, S] in -1..1.
        pose, expression: [N, 6], [N, K] as in `SupervisedBatch`. landmarks: [N, L] in `picture`, in `LANDMARK_UNIT`.
    """

    picture: Tensor
    plain: Tensor
    pose: Tensor
    expression: Tensor
    landmarks: Tensor

    def truths(self) -> Tensor:
        """What is known of `picture`: pose, expression, landmarks, [N, P + K + L]."""
        return torch.cat((self.pose, self.expression, self.landmarks), 1)

    def __len__(self) -> int:
        return len(self.picture)


Batch = PairBatch | SupervisedBatch | TwinBatch


class Reader(Protocol):
    """Where samples come from."""

    def sample(self, rng: np.random.Generator, size: int) -> Batch:
        """One sample (a batch of one) at `size` px, decided by `rng` alone."""
        ...


def pose_units(pose: Tensor) -> Tensor:
    """Yaw, pitch, roll in degrees and framing, [N, 6] -> about standard deviations."""
    return (pose.float() - torch.tensor(POSE_OFFSET)) / torch.tensor(POSE_UNIT)


def expression_units(shape: Tensor, gaze: Tensor) -> Tensor:
    """Landmark displacements [N, 68, 3] cm and gaze [N, 2] degrees -> [N, 206] about standard deviations."""
    units = torch.tensor([unit for part, unit in SHAPE_UNIT.items() for _ in part])
    return torch.cat(((shape.float() / units[:, None]).flatten(1), gaze.float() / torch.tensor(GAZE_UNIT)), 1)


def shrink_flow(flow: Tensor, visible: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Positions [N, 2, s, s] averaged over the visible part of larger pixels, and the visible share, at `size` px.

    Positions are absolute, so their mean belongs to the larger pixel's centre. Smaller maps stay as they are.
    """
    factor = flow.shape[-1] // size
    if factor <= 1:
        return flow, visible
    share = F.avg_pool2d(visible, factor)
    position = F.avg_pool2d(flow * visible, factor) / share.clamp_min(1e-6)
    return torch.where(share > 0, position, F.avg_pool2d(flow, factor)), share


class RenderReader:
    """Rendered heads, drawn on the fly: an endless supply, at the price of a few renders a sample."""

    def __init__(self, path: str, render_size: int = 128, same_person: float = 0.4, jitter: float = 0.0) -> None:
        from .synthetic.sampling import Studio

        self.studio = Studio.load(path)
        self.jitter = jitter
        self.render_size, self.same_person = render_size, same_person

    def sample(self, rng: np.random.Generator, size: int) -> SupervisedBatch:
        """One tuple, rendered at 128 px or more and reduced to `size`."""
        made = self.studio.sample_tuple(
            rng, same_person=bool(rng.random() < self.same_person), size=max(size, self.render_size)
        )
        names = ("pose", "exp", "both")
        images = torch.from_numpy(made.images())
        flows = torch.from_numpy(np.stack([made.flows[f"{n}_target"] for n in names]))
        visible = torch.from_numpy(np.stack([made.visible[f"{n}_target"] for n in names]))
        turn = np.stack([p.pose_vector()[:3] for p in (made.source_params, made.driver_params)])
        gaze = np.stack([p.expression_vector()[-2:] for p in (made.source_params, made.driver_params)])
        shape = torch.from_numpy(np.stack((made.source_shape, made.driver_shape)))
        expression = expression_units(shape, torch.from_numpy(gaze))
        marks = torch.from_numpy(made.landmarks)
        batch = supervised_from(images, torch.from_numpy(turn), expression, flows, visible, marks, size)
        return recoloured(batch, rng, self.jitter)


class TwinReader:
    """Rendered heads with their twins, drawn on the fly.

    Args:
        path: the head model. render_size: pixels a side they are rendered at, at least.
    """

    def __init__(self, path: str, render_size: int = 128) -> None:
        from .synthetic.sampling import Studio

        self.studio, self.render_size = Studio.load(path), render_size

    def sample(self, rng: np.random.Generator, size: int) -> TwinBatch:
        """One pair at `size` px."""
        made = self.studio.sample_twins(rng, max(size, self.render_size))
        picture, plain = to_network(torch.from_numpy(np.stack((made.picture, made.plain))), size)[:, None]
        turn = torch.from_numpy(made.params.pose_vector()[:3])
        framed = torch.from_numpy(framing(made.landmarks))
        gaze = torch.from_numpy(made.params.expression_vector()[-2:])
        return TwinBatch(
            picture,
            plain,
            pose_units(torch.cat((turn, framed))[None]),
            expression_units(torch.from_numpy(made.shape)[None], gaze[None]),
            torch.from_numpy(made.landmarks).flatten()[None] / LANDMARK_UNIT,
        )


def supervised_from(
    images: Tensor,
    turn: Tensor,
    expression: Tensor,
    flows: Tensor | None,
    visible: Tensor | None,
    landmarks: Tensor,
    size: int,
) -> SupervisedBatch:
    """A sample (batch of one) from what a renderer gives.

    Args:
        images: uint8 [5, S, S, 3]: source, driver, pose, expression and both target.
        turn: yaw, pitch, roll [2, 3] of source and driver, degrees.
        expression: [2, K], see `expression_units`.
        flows: [3, s, s, 2] of the three targets, or None.
        visible: [3, s, s] in 0..1, or None.
        landmarks: [5, 68, 2] in -1..1.
        size: pixels a side wanted; S is a multiple.
    """
    pictures = to_network(images, size)[:, None]
    framed = torch.from_numpy(framing(landmarks[:2].float().numpy()))
    poses, expressions = pose_units(torch.cat((turn.float(), framed), 1))[:, None], expression[:, None]
    maps: list[Tensor | None] = [None] * 6
    if flows is not None and visible is not None:
        small, share = shrink_flow(flows.float().permute(0, 3, 1, 2), visible.float()[:, None], size)
        maps = [*small[:, None], *share[:, None]]
    marks = landmarks.float().flatten(1)[None] / LANDMARK_UNIT
    return dataclasses.replace(SupervisedBatch(*pictures, *poses, *expressions, *maps), landmarks=marks)


def recoloured(batch: SupervisedBatch, rng: np.random.Generator, strength: float) -> SupervisedBatch:
    """The sample with brightness, contrast and colour changed at random: the driver's its own way, the others alike."""
    if not strength:
        return batch
    own, other = rng.uniform(-strength, strength, size=(2, 3))
    names = ("source", "pose_target", "exp_target", "both_target")
    changed = {name: _recolour(getattr(batch, name), own) for name in names}
    return dataclasses.replace(batch, driver=_recolour(batch.driver, other), **changed)


class ShardReader:
    """Rendered heads from a folder of shards, drawn with replacement from those that exist when the run starts."""

    def __init__(self, path: str, jitter: float = 0.0) -> None:
        from .synthetic.shards import ShardDataset

        self.shards, self.jitter = ShardDataset(path), jitter

    def sample(self, rng: np.random.Generator, size: int) -> SupervisedBatch:
        """One tuple at `size` px."""
        made = self.shards[int(rng.integers(len(self.shards)))]
        turn = torch.stack((made["source_pose"], made["driver_pose"]))[:, :3]
        shape = torch.stack((made["source_shape"], made["driver_shape"]))
        gaze = torch.stack((made["source_expression"], made["driver_expression"]))[:, -2:]
        expression = expression_units(shape, gaze)
        maps = made["flows"], made["visible"], made["landmarks"]
        return recoloured(supervised_from(made["images"], turn, expression, *maps, size), rng, self.jitter)


class ClipReader:
    """Pairs of frames from a folder of videos, or of folders of frames, however deep they lie.

    A clip is decoded when it is first drawn, and up to `frames_a_clip` evenly spaced frames of it are kept in memory as
    JPEG. Where that takes more than `most_bytes`, the clips go that were not drawn for longest, and are decoded once
    more when they are drawn again. A clip that cannot be used is passed over, with a warning.

    Raises:
        DataError: no folder, or no clip in it.
    """

    def __init__(self, source: Source, frames_a_clip: int = 64, most_bytes: int = KEPT_BYTES) -> None:
        root = Path(source.path)
        if not root.is_dir():
            raise DataError(f"{root}: expected a folder of videos or of folders of frames, found none.")
        self.source = source
        self.frames_a_clip, self.most_bytes = frames_a_clip, most_bytes
        self.paths = find_clips(root)
        self.kept: OrderedDict[Path, list[bytes]] = OrderedDict()
        self.bytes = 0
        self.broken: set[Path] = set()
        self.reason = ""
        if not self.paths:
            raise DataError(
                f"{root}: expected videos ({', '.join(sorted(VIDEO_ENDINGS))}) or folders of frames, found none in it."
            )

    def sample(self, rng: np.random.Generator, size: int) -> PairBatch:
        """Two frames of one clip. Raises DataError where no clip is left that can be used."""
        frames: list[bytes] | None = None
        while frames is None:
            if len(self.broken) == len(self.paths):
                raise DataError(
                    f"{self.source.path}: expected clips of at least two square frames, but none of the "
                    f"{len(self.paths)} can be used. {self.reason}"
                )
            # Draws depend on the generator and the files alone, not on which clips are known or kept already.
            frames = self._frames(self.paths[int(rng.integers(len(self.paths)))])
        return pair_from([_decode(frames[i]) for i in rng.integers(len(frames), size=2)], rng, size, self.source)

    def _frames(self, path: Path) -> list[bytes] | None:
        """The frames of a clip that are kept, None of a broken one."""
        if path in self.broken:
            return None
        if path in self.kept:
            self.kept.move_to_end(path)
            return self.kept[path]
        try:
            found = self._read(path)
        except (DPEError, OSError) as error:
            self.broken.add(path)
            self.reason = str(error)
            logger.warning("Passed over a clip that cannot be used: %s", error)
            return None
        self.kept[path] = found
        self.bytes += _size(found)
        while self.bytes > self.most_bytes and len(self.kept) > 1:
            self.bytes -= _size(self.kept.popitem(last=False)[1])
        return found

    def _read(self, path: Path) -> list[bytes]:
        from ..video import open_frames

        opened = open_frames(path)
        count = opened.count_frames()
        wanted = np.linspace(0, count - 1, min(count, self.frames_a_clip)).round().astype(int).tolist()
        found: list[bytes] = []
        position = 0
        for chunk in opened.chunks(16, stop=count):
            for frame in chunk:
                if len(found) < len(wanted) and position == wanted[len(found)]:
                    found.append(_encode(frame))
                position += 1
            check_square(chunk, str(path))
        if len(found) < 2:
            raise DataError(f"{path}: expected a clip of at least two frames, found {len(found)}. Remove it.")
        return found


def find_clips(root: Path) -> list[Path]:
    """The videos, and the folders that hold pictures beside no video, in a folder and the folders in it, sorted.

    Hidden ones are left out, and pictures beside the folders in `root`. Linked folders are gone into, each once.
    """
    from ..video.pictures import is_picture

    found: list[Path] = []
    seen: set[str] = set()
    for place, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        files = [Path(place, name) for name in names if not name.startswith(".")]
        videos = [path for path in files if path.suffix.lower() in VIDEO_ENDINGS]
        stray = folders and Path(place) == root
        if not videos and not stray and any(map(is_picture, files)):
            found.append(Path(place))
        found += videos
    return sorted(found)


def _size(frames: Sequence[bytes]) -> int:
    return sum(map(len, frames))


def _encode(frame: Tensor) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(frame.numpy()).save(buffer, format="JPEG", quality=95)
    return buffer.getvalue()


def _decode(content: bytes) -> Tensor:
    with Image.open(io.BytesIO(content)) as image:
        return torch.from_numpy(np.asarray(image.convert("RGB")).copy())


class LMDBReader:
    """Pairs of frames from the published code's layout.

    `PATH/256` is the database: `<video>-length` holds a clip's frame count as text, `<video>-<frame, 7 digits>` an
    encoded picture. `PATH/train_list.txt` names the videos, one a line, as `<person>#...`; a person is drawn, then one
    of their videos, then two of its first 500 frames.
    """

    MOST_FRAMES = 500

    def __init__(self, source: Source, listing: str = "train_list.txt", folder: str = "256") -> None:
        try:
            import lmdb
        except ModuleNotFoundError as error:
            raise DataError("Reading the LMDB layout needs the package lmdb. Install it, or use clips.") from error
        root = Path(source.path)
        names = root / listing
        if not names.is_file() or not (root / folder).is_dir():
            raise DataError(f"{root}: expected {listing} and the database folder {folder}, found not both.")
        self.source = source
        environment = lmdb.open(str(root / folder), readonly=True, lock=False, readahead=False, meminit=False)
        self.transaction = environment.begin(buffers=True)
        self.videos: dict[str, list[str]] = {}
        for name in names.read_text().split("\n"):
            if name.strip():
                self.videos.setdefault(name.split("#")[0], []).append(name.strip())
        self.people = sorted(self.videos)
        if not self.people:
            raise DataError(f"{names}: expected names of videos, one a line, found none.")

    def sample(self, rng: np.random.Generator, size: int) -> PairBatch:
        """Two frames of one video of one person."""
        videos = self.videos[self.people[int(rng.integers(len(self.people)))]]
        name = videos[int(rng.integers(len(videos)))]
        count = min(int(bytes(self._get(f"{name}-length")).decode()), self.MOST_FRAMES)
        frames = [_decode(bytes(self._get(f"{name}-{i:07d}"))) for i in rng.integers(count, size=2)]
        return pair_from(frames, rng, size, self.source)

    def _get(self, key: str) -> Any:
        value = self.transaction.get(key.encode())
        if value is None:
            raise DataError(f"{self.source.path}: expected the key {key} in the database, found none.")
        return value


def pair_from(frames: Sequence[Tensor], rng: np.random.Generator, size: int, source: Source) -> PairBatch:
    """Two frames [H, W, 3] as a sample; both mirrored or recoloured alike, as the source says."""
    try:
        a, b = (to_network(f[None], size) for f in frames)
    except FrameError as error:
        raise DataError(f"{source.path}: {error}") from error
    flip, draw = bool(rng.random() < 0.5), rng.uniform(-1.0, 1.0, size=(3,))
    if source.flip and flip:
        a, b = a.flip(-1), b.flip(-1)
    if source.jitter:
        a, b = (_recolour(x, draw * source.jitter) for x in (a, b))
    return PairBatch(a, b)


def _recolour(images: Tensor, amounts: Any) -> Tensor:
    brightness, contrast, saturation = (float(a) for a in amounts)
    grey = images.mean(1, keepdim=True)
    images = grey + (images - grey) * (1.0 + saturation)
    return (images * (1.0 + contrast) + brightness).clamp(-1.0, 1.0)


def open_source(source: Source) -> Reader:
    """The reader of a source. Raises DataError where it cannot be read."""
    if source.kind == "render":
        return RenderReader(source.path, jitter=source.jitter)
    if source.kind == "twins":
        return TwinReader(source.path)
    if source.kind == "synthetic":
        return ShardReader(source.path, source.jitter)
    if source.kind == "clips":
        return ClipReader(source)
    if source.kind == "lmdb":
        return LMDBReader(source)
    raise DataError(f"sources: unknown kind {source.kind!r}.")


def _refuse_same_samples(sources: Sequence[Source]) -> None:
    """Two folders rendered with one seed hold the same samples: a run would learn from half of what it seems to."""
    rendered = [s.path for s in sources if s.kind == "synthetic"]
    firsts: dict[bytes, str] = {}
    for path in rendered if len(rendered) > 1 else ():
        first = ShardReader(path).shards[0]["images"].numpy().tobytes()
        if first in firsts:
            raise DataError(
                f"sources: {firsts[first]} and {path} hold the same samples. Render each with a seed of its own, "
                "or name one and raise its share."
            )
        firsts[first] = path


@dataclass(frozen=True)
class Share:
    """Which part of every joint batch a process takes: samples `rank`, `rank + world`, ..."""

    rank: int = 0
    world: int = 1


class StepData(Dataset[Batch]):
    """Item s is this process's part of the batch of step s. All of a batch comes from one source."""

    def __init__(self, sources: Sequence[Source], size: int, batch: int, seed: int, share: Share) -> None:
        if not sources:
            raise DataError("no data: expected at least one [[sources]] in the configuration.")
        if batch % share.world:
            raise DataError(f"batch: expected a multiple of the {share.world} processes, got {batch}.")
        shares = np.array([s.share for s in sources], dtype=np.float64)
        if (shares < 0).any() or not shares.sum():
            raise DataError(f"sources: expected shares of at least 0 and one above, got {shares.tolist()}.")
        self.sources, self.size, self.batch, self.seed, self.share = tuple(sources), size, batch, seed, share
        self.odds = shares / shares.sum()
        _refuse_same_samples(sources)
        self.readers: dict[int, Reader] = {}

    def __len__(self) -> int:
        return 2**62

    def __getitem__(self, step: int) -> Batch:
        index = int(np.random.default_rng([self.seed, 0, step]).choice(len(self.sources), p=self.odds))
        # Opened where it is used: readers do not travel to worker processes.
        if index not in self.readers:
            self.readers[index] = open_source(self.sources[index])
        reader = self.readers[index]
        numbers = range(step * self.batch + self.share.rank, (step + 1) * self.batch, self.share.world)
        samples = [reader.sample(np.random.default_rng([self.seed, 1, n]), self.size) for n in numbers]
        return type(samples[0]).stack(samples)  # type: ignore[arg-type]


def step_batches(data: StepData, start: int, stop: int, workers: int) -> Iterator[Batch]:
    """Batches of steps `start` to `stop` - 1, in order, prepared ahead by `workers` processes (0 = none)."""
    steps = range(start, stop)
    if workers == 0:
        return (data[s] for s in steps)
    ending = RawValue("b", 0)
    loader = DataLoader(
        _Told(data),
        batch_size=None,
        sampler=steps,
        num_workers=workers,
        prefetch_factor=2,
        worker_init_fn=_Outliving(ending),
    )
    items = iter(loader)
    # Registered after what makes sure of the workers' end when the program ends, so it comes before that.
    atexit.register(setattr, ending, "value", 1)
    return _raised(items)


class _Told(Dataset[Batch | DPEError | OSError]):
    """Data whose errors are handed over like batches: raised in a worker they would come with its whole traceback."""

    def __init__(self, data: StepData) -> None:
        self.data = data

    def __getitem__(self, step: int) -> Batch | DPEError | OSError:
        try:
            return self.data[step]
        except (DPEError, OSError) as error:
            return error


def _raised(items: Iterator[Batch | DPEError | OSError]) -> Iterator[Batch]:
    try:
        for item in items:
            if isinstance(item, DPEError | OSError):
                raise item
            yield item
    finally:
        # Ends the workers, however long somebody keeps the error.
        del items


class _Outliving:
    """Lets a worker live through the signals that ask a run to stop: they go to its whole group, and it ends workers.

    Args:
        ending: a shared number; not 0 where the program ends and a worker that is still there has to go.
    """

    def __init__(self, ending: Any) -> None:
        self.ending = ending

    def __call__(self, worker: int) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, self._asked)

    def _asked(self, number: int, frame: FrameType | None) -> None:
        if self.ending.value:
            os._exit(0)
