"""The batch of every step.

Sample number n of a run is a function of the seed and n alone. So a resumed run goes on with the very samples a
straight one would have seen, and several processes share a joint batch without talking to each other.
"""

from __future__ import annotations

import atexit
import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.sharedctypes import RawValue
from types import FrameType
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from ...errors import DataError, DPEError
from ..config import Source
from .batches import Batch, SupervisedBatch
from .clips import ClipReader, LMDBReader
from .rendered import RenderReader, ShardReader, TwinReader


class Reader(Protocol):
    """Where samples come from."""

    def sample(self, rng: np.random.Generator, size: int) -> Batch:
        """One sample (a batch of one) at `size` px, decided by `rng` alone."""
        ...


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
    """Item s is this process's part of the batch of step s. All of a batch comes from one source.

    Args:
        sources: of shares above 0, at least one.
        size: side of the pictures, px.
        batch: samples of all processes together.
        seed: of the run.
        share: this process's part.
        own: how much of a joint batch of rendered heads is driven by its own source, 0..1. The first samples are, so
            that it does not depend on how a batch is shared out.

    Raises:
        DataError: no sources, or what does not divide.
    """

    def __init__(
        self, sources: Sequence[Source], size: int, batch: int, seed: int, share: Share, own: float = 0.0
    ) -> None:
        if not sources:
            raise DataError("no data: expected at least one [[sources]] in the configuration.")
        if batch % share.world:
            raise DataError(f"batch: expected a multiple of the {share.world} processes, got {batch}.")
        shares = np.array([s.share for s in sources], dtype=np.float64)
        if (shares < 0).any() or not shares.sum():
            raise DataError(f"sources: expected shares of at least 0 and one above, got {shares.tolist()}.")
        self.sources, self.size, self.batch, self.seed, self.share = tuple(sources), size, batch, seed, share
        self.odds = shares / shares.sum()
        self.own = round(own * batch)
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
        joined: Batch = type(samples[0]).stack(samples)  # type: ignore[arg-type]
        if self.own and isinstance(joined, SupervisedBatch):
            joined = replace(joined, own=torch.tensor([n - step * self.batch < self.own for n in numbers]))
        return joined


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
        # By default workers' seeds are drawn from the run's own generator, which a resumed run would do once more.
        generator=torch.Generator(),
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
