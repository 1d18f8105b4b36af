"""Where the time of an edited full-frame video goes, one stage after the other."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

from ..bundled import DRIVING_CLIP, FULL_FRAME_CLIP
from ..engine import Engine
from ..jobs import CropOptions, Silent
from ..jobs.portraits import find_crop
from ..motion import Edit
from ..portrait import PasteOptions, Paster, crop_frames
from ..video import FrameWriter, open_frames
from .machine import synchronize

STAGES = ("decode", "find face", "crop", "encode", "render", "paste", "encode video")


@dataclass
class StageClock:
    """Seconds by stage."""

    engine: Engine
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """What happens inside belongs to a stage."""
        start = time.perf_counter()
        yield
        synchronize(self.engine.device)
        self.seconds[name] += time.perf_counter() - start


def time_stages(engine: Engine, frames: int) -> dict[str, object]:
    """Edit the bundled full-frame clip, every stage waiting for the one before (the real job overlaps them).

    "encode" is the driver's and the source's encoder, "render" the generator.

    Returns:
        The number of frames and milliseconds a frame by stage.
    """
    # One that keeps every encoding where it was made, so that rendering is the generator alone.
    engine = Engine(engine.checkpoint, engine.device, engine.chunk, feature_budget=sys.maxsize, storage=engine.device)
    clock = StageClock(engine)
    source, driver = open_frames(FULL_FRAME_CLIP), open_frames(DRIVING_CLIP)
    frames = min(frames, len(source), len(driver))
    with clock.stage("find face"):
        crop = find_crop(source, CropOptions().beside(engine.device), engine.size, Silent(), "source", frames)
    paster = Paster(PasteOptions(), crop, engine.device)
    start = 0
    with tempfile.TemporaryDirectory() as folder:
        with clock.stage("encode video"):
            writer = FrameWriter(Path(folder) / "edited.mp4", source.info.fps)
        chunks = source.chunks(engine.chunk, stop=frames)
        drivers = driver.chunks(engine.chunk, stop=frames)
        while start < frames:
            with clock.stage("decode"):
                full, driving = next(chunks), next(drivers)
            part = crop[start : start + len(full)]
            with clock.stage("crop"):
                portraits = crop_frames(full, part, engine.size)
            with clock.stage("encode"):
                motion = engine.measure([driving])
                latent = engine.encode(portraits)
            with clock.stage("render"):
                latent = latent.with_edit("expression", Edit(motion))
                edited = torch.cat(list(engine.render(latent, "expression")))
            with clock.stage("paste"):
                pasted, _ = paster.paste(full, edited, start, portraits=portraits)
            with clock.stage("encode video"):
                writer.write(pasted)
            start += len(full)
        with clock.stage("encode video"):
            writer.close()
    return {"frames": frames, **{name: round(1e3 * s / frames, 2) for name, s in clock.seconds.items()}}
