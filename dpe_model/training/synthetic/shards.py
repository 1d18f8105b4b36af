"""Tuples of rendered heads for training, rendered beforehand to files.

`python -m dpe_model.training.synthetic.shards --head HEAD.npz --output DIR --count N` renders them. Sample i depends
on the seed and i alone: neither the number of processes nor an interruption changes it.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset

from ...errors import DPEError
from .geometry import Array
from .sampling import IMAGE_NAMES, TARGET_NAMES, HeadTuple, Studio

logger = logging.getLogger(__name__)

FORMAT = 3
MANIFEST = "shards.json"
LANDMARKS = 68
Sample = dict[str, torch.Tensor]
"""One sample as tensors:

images [5, S, S, 3] uint8 in the order of `IMAGE_NAMES`; flows [3, s, s, 2] float32 and visible [3, s, s] float32 in the
order of `TARGET_NAMES`, s = S / flow_stride; source_pose, driver_pose [6]; source_expression, driver_expression [E + 2]
(see `HeadParams`); landmarks [5, 68, 2], source_shape, driver_shape [68, 3] (see `HeadTuple`); same_person [] bool.
"""


class ShardError(DPEError):
    """A folder of rendered shards cannot be used or continued; the message names it."""


@dataclass(frozen=True)
class SampleOptions:
    """How samples are drawn.

    Attributes:
        size: pixels a side. sub: samples a pixel and side.
        seed: with a sample's number it decides the sample.
        same_person: share of the samples whose driver is the source's own person.
        flow_stride: flows are kept at size / flow_stride.
        clean_targets: targets without sensor noise and JPEG.
    """

    size: int = 128
    sub: int = 2
    seed: int = 0
    same_person: float = 0.5
    flow_stride: int = 2
    clean_targets: bool = True

    def __post_init__(self) -> None:
        if self.flow_stride < 1 or self.size < 16 or self.size % self.flow_stride:
            raise ShardError(
                f"Expected a size of at least 16 px that is a multiple of flow_stride, which is 1 or more; "
                f"got {self.size} and {self.flow_stride}."
            )
        if not 0.0 <= self.same_person <= 1.0:
            raise ShardError(f"same_person: expected a share in 0..1, got {self.same_person}.")


def draw(studio: Studio, options: SampleOptions, index: int) -> HeadTuple:
    """Sample number `index`; the same whenever and wherever it is drawn."""
    rng = np.random.default_rng([options.seed, index])
    same = bool(rng.random() < options.same_person)
    return studio.sample_tuple(rng, same, options.size, options.sub, options.clean_targets)


def pool_flow(flow: Array, visible: Array, stride: int) -> tuple[Array, Array]:
    """A flow [S, S, 2] and its visibility [S, S] at 1/stride of the size.

    The mean of what is visible; a block that straddles an edge (points over 2 pixels off the mean) counts as hidden.
    """
    if stride == 1:
        return flow, visible
    size = flow.shape[0]
    small = size // stride
    blocks = flow.reshape(small, stride, small, stride, 2)
    weight = visible.reshape(small, stride, small, stride, 1)
    total = weight.sum((1, 3))
    mean = np.where(total > 0, (blocks * weight).sum((1, 3)) / np.maximum(total, 1e-6), blocks.mean((1, 3)))
    # Within a block, an unmoved surface already spreads by (stride - 1) / 2 pixels.
    off = np.abs(blocks - mean[:, None, :, None]).max(-1, keepdims=True) * (weight > 0)
    straddles = off.max((1, 3))[..., 0] > (2.0 + stride / 2) * 2.0 / size
    share = np.where(straddles, 0.0, total[..., 0] / stride**2)
    return mean.astype(np.float32), share.astype(np.float32)


def record_type(options: SampleOptions, expressions: int) -> np.dtype[Any]:
    """Layout of one sample in a shard, for a head model with `expressions` blendshapes."""
    size, small = options.size, options.size // options.flow_stride
    return np.dtype(
        [
            ("images", np.uint8, (len(IMAGE_NAMES), size, size, 3)),
            ("flows", np.float16, (len(TARGET_NAMES), small, small, 2)),
            ("visible", np.uint8, (len(TARGET_NAMES), small, small)),
            ("source_pose", np.float32, (6,)),
            ("driver_pose", np.float32, (6,)),
            ("source_expression", np.float32, (expressions + 2,)),
            ("driver_expression", np.float32, (expressions + 2,)),
            ("landmarks", np.float32, (len(IMAGE_NAMES), LANDMARKS, 2)),
            ("source_shape", np.float32, (LANDMARKS, 3)),
            ("driver_shape", np.float32, (LANDMARKS, 3)),
            ("same_person", np.bool_),
        ]
    )


def to_record(sample: HeadTuple, options: SampleOptions, expressions: int) -> npt.NDArray[np.void]:
    """A sample as one record [] of `record_type`."""
    record = np.zeros((), record_type(options, expressions))
    record["images"] = sample.images()
    for row, name in enumerate(TARGET_NAMES):
        flow, visible = pool_flow(sample.flows[name], sample.visible[name], options.flow_stride)
        # Points far outside the picture are never visible; clipped, they fit into half precision.
        record["flows"][row] = np.clip(flow, -8.0, 8.0)
        record["visible"][row] = np.round(visible * 255.0)
    record["source_pose"] = sample.source_params.pose_vector()
    record["driver_pose"] = sample.driver_params.pose_vector()
    record["source_expression"] = sample.source_params.expression_vector()
    record["driver_expression"] = sample.driver_params.expression_vector()
    for name in ("landmarks", "source_shape", "driver_shape"):
        record[name] = getattr(sample, name)
    record["same_person"] = sample.same_person
    return record


def to_sample(record: npt.NDArray[np.void]) -> Sample:
    """A record as tensors."""
    names = record.dtype.names or ()
    result = {name: torch.from_numpy(np.array(record[name])) for name in names}
    result["flows"] = result["flows"].float()
    result["visible"] = result["visible"].float() / 255.0
    return result


class ShardDataset(Dataset[Sample]):
    """Samples rendered beforehand by `render_shards`, read through memory maps.

    Args:
        folder: where the shards lie.

    Raises:
        ShardError: no shards there, or of an unknown format.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        manifest = self.folder / MANIFEST
        if not manifest.is_file():
            raise ShardError(f"Expected rendered shards in {self.folder}, found no {MANIFEST}. Render some first.")
        self.manifest: dict[str, Any] = json.loads(manifest.read_text("utf-8"))
        if self.manifest.get("format") != FORMAT:
            raise ShardError(
                f"{manifest}: expected format {FORMAT}, got {self.manifest.get('format')}. Render the shards again."
            )
        self.paths = sorted(self.folder.glob("shard-*.npy"))
        if not self.paths:
            raise ShardError(f"Expected files shard-*.npy in {self.folder}, found none. Let the rendering finish one.")
        self._maps: dict[int, npt.NDArray[np.void]] = {}
        lengths = [len(np.load(path, mmap_mode="r", allow_pickle=False)) for path in self.paths]
        self._ends = np.cumsum(lengths)

    def __len__(self) -> int:
        """Number of samples."""
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> Sample:
        """Sample `index` as tensors."""
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        shard = int(np.searchsorted(self._ends, index, side="right"))
        if shard not in self._maps:
            self._maps[shard] = np.load(self.paths[shard], mmap_mode="r", allow_pickle=False)
        records = self._maps[shard]
        return to_sample(records[index - (int(self._ends[shard]) - len(records))])

    def __getstate__(self) -> dict[str, Any]:
        """Without the open maps, which a worker process opens anew."""
        return {**self.__dict__, "_maps": {}}


def _render_some(
    head: Path, folder: Path, numbers: Sequence[int], count: int, length: int, options: SampleOptions
) -> None:
    """Renders the shards of the given numbers; a shard appears under its name only when whole.

    Ends early when the process that started this one has gone.
    """
    cv2.setNumThreads(1)
    studio = Studio.load(head)
    expressions = len(studio.template.expression_names)
    starter = multiprocessing.parent_process()
    for number in numbers:
        if starter is not None and not starter.is_alive():
            return
        first = number * length
        indices = range(first, min(first + length, count))
        records = np.stack([to_record(draw(studio, options, i), options, expressions) for i in indices])
        partial = folder / f"shard-{number:06d}.partial.{os.getpid()}"
        with partial.open("wb") as file:
            np.save(file, records, allow_pickle=False)
        partial.replace(folder / f"shard-{number:06d}.npy")


def render_shards(
    head: str | Path,
    out_dir: str | Path,
    count: int,
    options: SampleOptions | None = None,
    workers: int = 1,
    shard_length: int = 64,
) -> list[Path]:
    """Renders samples 0 to count - 1 to files, skipping those that exist.

    Args:
        head: path of the ICT-FaceKit export.
        out_dir: folder for the shards and a manifest.
        count: number of samples.
        options: how to draw.
        workers: processes; started by spawning, so call this under `if __name__ == "__main__"`.
        shard_length: samples a file.

    Returns:
        The shards' paths in order.

    Raises:
        ShardError: the folder holds shards of other settings, or a worker failed.
        HeadModelError: the head model cannot be used.
    """
    if count < 1:
        raise ShardError(f"count: expected at least 1 sample, got {count}.")
    options = options or SampleOptions()
    Studio.load(Path(head))  # refused before anything is made
    folder = Path(out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    manifest = folder / MANIFEST
    settings = {"format": FORMAT, "shard_length": shard_length, "options": asdict(options)}
    if manifest.is_file():
        found = json.loads(manifest.read_text("utf-8"))
        if found != settings:
            raise ShardError(
                f"{folder} holds shards of other settings ({found}); expected {settings}. "
                "Choose another folder or delete it."
            )
    else:
        manifest.write_text(json.dumps(settings, indent=2), "utf-8")
    paths = [folder / f"shard-{number:06d}.npy" for number in range(-(-count // shard_length))]
    # A last, shorter shard of an earlier run is rendered again when more samples are wanted.
    missing = [
        number
        for number, path in enumerate(paths)
        if not path.is_file()
        or len(np.load(path, mmap_mode="r", allow_pickle=False)) < min(shard_length, count - number * shard_length)
    ]
    logger.info("%d of %d shards to render in %s", len(missing), len(paths), folder)
    if workers <= 1 or len(missing) <= 1:
        if missing:
            _render_some(Path(head), folder, missing, count, shard_length, options)
        return paths
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(
            target=_render_some, args=(Path(head), folder, missing[part::workers], count, shard_length, options)
        )
        for part in range(min(workers, len(missing)))
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    failed = [process.exitcode for process in processes if process.exitcode != 0]
    if failed:
        raise ShardError(
            f"{len(failed)} of {len(processes)} rendering processes failed (exit codes {failed}); their messages are "
            "above. What is finished is kept: run again to go on."
        )
    return paths


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description="Render training samples to files; an interrupted run can be repeated."
    )
    parser.add_argument("--head", type=Path, required=True, help="ICT-FaceKit export (.npz)")
    parser.add_argument("--output", type=Path, required=True, help="folder for the shards")
    parser.add_argument("--count", type=int, required=True, help="number of samples")
    parser.add_argument("--size", type=int, default=128, help="pixels a side")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--seed", type=int, default=0, help="seed of all samples")
    parser.add_argument("--same-person", type=float, default=0.5, help="share of samples driven by the same person")
    parser.add_argument(
        "--flow-stride",
        type=int,
        default=2,
        help="pixels a side to one kept flow; 1 tells lids apart, at 60 %% more disk",
    )
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        options = SampleOptions(
            size=given.size, seed=given.seed, same_person=given.same_person, flow_stride=given.flow_stride
        )
        render_shards(given.head, given.output, given.count, options, given.workers)
    except (DPEError, OSError) as error:
        parser.exit(1, f"error: {error}\n")


if __name__ == "__main__":
    main()
