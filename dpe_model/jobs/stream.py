"""A clip through the network into a file: decoding, cutting, rendering, pasting and encoding at the same time.

Decoding and cutting run ahead in threads, pasting and encoding behind in two more; the network runs where it is called.
Each may be a few chunks ahead of the next, so memory is flat, and since every one works in order the result is the same
as without threads, bit for bit.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from ..engine import Engine, RenderStep
from ..memory import return_free_memory
from ..overlap import Behind, ahead
from ..portrait import Paster, crop_frames
from ..video import FrameWriter, VideoInfo
from .portraits import PortraitClip
from .report import Reporter
from .writing import write_timed

AHEAD = 2
"""Chunks that a stage may be ahead of the next."""
CHUNK_BYTES = 25 * 2**20
"""Most that a chunk of full frames takes (four of 1920x1080), about ten of which are held at a time: where frames are
large, a chunk has fewer pictures than the network would take at once, but pasting and encoding take longer anyway."""

TRIM_EVERY = 4
"""Chunks after which freed memory goes back to the system: what the stages' threads free in turn otherwise adds up to
some hundred MB over a few hundred frames. Doing it after each chunk would cost a tenth of the speed."""

Preview = Callable[[Tensor], None]
"""Shown a finished frame [H, W, 3] now and then."""


@dataclass(frozen=True, eq=False)
class _Chunk:
    """Some frames on their way: [n, H, W, 3], their portraits [n, S, S, 3], time stamps, and the first one's number."""

    frames: Tensor
    portraits: Tensor
    times: Sequence[Fraction]
    start: int


def stream(
    engine: Engine,
    clip: PortraitClip,
    steps: Sequence[RenderStep],
    writer: FrameWriter,
    reporter: Reporter,
    paster: Paster | None = None,
    overlap: int = AHEAD,
    preview: Preview | None = None,
) -> None:
    """Render a moving clip into a writer, in order, with flat memory.

    Args:
        engine: renders; its services are asked before each chunk whether to stop.
        clip: the source; as many frames as the steps are laid out over.
        steps: role and laid-out edits, applied in order.
        writer: open; with given time stamps it gets the source's.
        reporter: shows progress.
        paster: puts the portraits back into their frames; without, the portraits are the result.
        overlap: chunks that pasting and encoding may be behind; 0 does one after the other, without threads.
        preview: shown the last frame of each chunk.

    Raises:
        DPEError: reading, rendering or writing failed; nothing more is written then.
    """
    length = min(plan.length for _, plan in steps)
    finished: list[Tensor] = []

    def encode(frames: Tensor, times: Sequence[Fraction]) -> None:
        write_timed(writer, frames, times)

    with reporter.stage("edit", length) as count, Behind(encode, overlap) as encoding:

        def finish(chunk: _Chunk, edited: Tensor) -> None:
            result = edited
            if paster is not None:
                result, _ = paster.paste(chunk.frames, edited, chunk.start, portraits=chunk.portraits)
            finished[:] = [result[-1]]
            encoding.add(result, chunk.times)

        chunks = _cut(clip, engine, length)
        with (
            closing(ahead(chunks, 1) if overlap else chunks) as cut,
            Behind(finish, overlap) as finishing,
            closing(_rendered(engine, cut, steps)) as rendered,
        ):
            for number, (chunk, edited) in enumerate(rendered, 1):
                finishing.add(chunk, edited)
                count(len(edited))
                if number % TRIM_EVERY == 0:
                    return_free_memory()
                if preview is not None and finished:
                    preview(finished[0])


def chunk_size(most: int, info: VideoInfo) -> int:
    """How many frames of a clip make a chunk: `most`, or fewer where frames are large."""
    return max(1, min(most, CHUNK_BYTES // (info.width * info.height * 3)))


def _cut(clip: PortraitClip, engine: Engine, length: int) -> Generator[_Chunk, None, None]:
    """The clip's first `length` frames with their portraits."""
    start = 0
    for frames, times in clip.source.timed_chunks(chunk_size(engine.chunk, clip.source.info), stop=length):
        portraits = frames
        if clip.crop is not None:
            portraits = crop_frames(frames, clip.crop[start : start + len(frames)], engine.size)
        yield _Chunk(frames, portraits, times, start)
        start += len(frames)


def _rendered(
    engine: Engine, chunks: Iterator[_Chunk], steps: Sequence[RenderStep]
) -> Generator[tuple[_Chunk, Tensor], None, None]:
    """Chunks with their edited portraits; the engine may have begun the next, and may give a chunk in pieces."""
    begun: deque[_Chunk] = deque()

    def portraits() -> Iterator[Tensor]:
        for chunk in chunks:
            begun.append(chunk)
            yield chunk.portraits

    pieces: list[Tensor] = []
    for piece in engine.render_stream(portraits(), steps):
        pieces.append(piece)
        if sum(len(part) for part in pieces) == len(begun[0].frames):
            yield begun.popleft(), torch.cat(pieces) if len(pieces) > 1 else piece
            pieces.clear()
