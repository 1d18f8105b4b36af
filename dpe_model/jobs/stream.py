"""A clip through the network into a file: decoding, rendering, pasting and encoding at the same time.

Decoding runs ahead in one thread, pasting and encoding behind in two more; the network runs where it is called. Each
may be a few chunks ahead of the next, so memory is flat, and since every one works in order the result is the same as
without threads, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction

from torch import Tensor

from ..engine import Engine, RenderStep
from ..overlap import Behind
from ..portrait import Paster, crop_frames
from ..video import FrameWriter, VideoInfo
from .portraits import PortraitClip
from .report import Reporter

AHEAD = 2
"""Chunks that a stage may be ahead of the next."""
CHUNK_BYTES = 100 * 2**20
"""Most that a chunk of full frames takes; a chunk has fewer pictures then than the network would take at once."""

Preview = Callable[[Tensor], None]
"""Shown a finished frame [H, W, 3] now and then."""


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
        writer.write(frames, times if writer.takes_times else None)

    with (
        reporter.stage("edit", length) as count,
        Behind(encode, overlap) as encoding,
    ):

        def finish(frames: Tensor, portraits: Tensor, edited: Tensor, start: int, times: Sequence[Fraction]) -> None:
            result = edited if paster is None else paster.paste(frames, edited, start, portraits=portraits)[0]
            finished[:] = [result[-1]]
            encoding.add(result, times)

        with Behind(finish, overlap) as finishing:
            start = 0
            for frames, times in clip.source.timed_chunks(chunk_size(engine.chunk, clip.source.info), stop=length):
                engine.services.check_interrupt()
                portraits = frames
                if clip.crop is not None:
                    portraits = crop_frames(frames, clip.crop[start : start + len(frames)], engine.size)
                edited = engine.render_chunk(portraits, steps, start)
                finishing.add(frames, portraits, edited, start, times)
                count(len(frames))
                if preview is not None and finished:
                    preview(finished[0])
                start += len(frames)


def chunk_size(most: int, info: VideoInfo) -> int:
    """How many frames of a clip make a chunk: `most`, or fewer where frames are large."""
    return max(1, min(most, CHUNK_BYTES // (info.width * info.height * 3)))
