"""MTCNN face detection: three small networks, each looking closer at what the one before let through.

Zhang, Zhang, Li, Qiao: Joint Face Detection and Alignment using Multitask Cascaded Convolutional Networks (2016).
The weights in `weights/mtcnn.safetensors` come from facenet-pytorch 2.6.0 (MIT, Tim Esler), converted without change.

Coordinates are continuous: pixel (i, j) covers [j, j+1] x [i, i+1], so its centre lies at +0.5.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from ..errors import OptionError
from ..frames import check_finite, check_frames, to_uint8, to_unit
from .face import Face

WEIGHTS = Path(__file__).parent / "weights" / "mtcnn.safetensors"

PNET_CELL = 12
"""Side of the window one P-net output sees, px of its pyramid level."""
PNET_STRIDE = 2
ROUNDING = 1e-6
"""By how much, px, a level's side may fall short of the window."""
RNET_PATCH = 24
ONET_PATCH = 48
PYRAMID_FACTOR = 0.709
"""Ratio of two pyramid levels, about sqrt(1/2) as in the paper."""
WORKING_SIDE = 720
"""Larger frames are searched on a copy whose short side has this many px."""
CHUNK_PIXELS = 2_000_000
"""Working-copy pixels searched at once; bounds the memory to some 100 MB."""
FIRST_LOOK = 0.5
"""Least face probability after the O-net's first look; the second look decides."""
DRIFT_PENALTY = 2.0
"""Score lost by landmarks that move between the looks, for each box width they move."""
UNSURE = 0.6
"""Least score of a face that may continue a person who was surely seen before."""
MAX_CANDIDATES = 1000
"""Most P-net windows of one frame that go on to the R-net, best first."""


class PNet(nn.Module):
    """Proposal network, fully convolutional: a 12 px window slid over the picture with stride 2."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 10, 3)
        self.prelu1 = nn.PReLU(10)
        self.conv2 = nn.Conv2d(10, 16, 3)
        self.prelu2 = nn.PReLU(16)
        self.conv3 = nn.Conv2d(16, 32, 3)
        self.prelu3 = nn.PReLU(32)
        self.conv4_1 = nn.Conv2d(32, 2, 1)
        self.conv4_2 = nn.Conv2d(32, 4, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures [N, 3, H, W] -> face probability [N, h, w] and box correction [N, 4, h, w]."""
        x = F.max_pool2d(self.prelu1(self.conv1(x)), 2, 2, ceil_mode=True)
        x = self.prelu2(self.conv2(x))
        x = self.prelu3(self.conv3(x))
        return self.conv4_1(x).softmax(1)[:, 1], self.conv4_2(x)


def _flatten(x: Tensor) -> Tensor:
    # The dense weights were trained on column-major maps with the channel last.
    return x.permute(0, 3, 2, 1).flatten(1)


class RNet(nn.Module):
    """Refinement network: 24 px patches."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 28, 3)
        self.prelu1 = nn.PReLU(28)
        self.conv2 = nn.Conv2d(28, 48, 3)
        self.prelu2 = nn.PReLU(48)
        self.conv3 = nn.Conv2d(48, 64, 2)
        self.prelu3 = nn.PReLU(64)
        self.dense4 = nn.Linear(576, 128)
        self.prelu4 = nn.PReLU(128)
        self.dense5_1 = nn.Linear(128, 2)
        self.dense5_2 = nn.Linear(128, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Patches [N, 3, 24, 24] -> face probability [N] and box correction [N, 4]."""
        x = F.max_pool2d(self.prelu1(self.conv1(x)), 3, 2, ceil_mode=True)
        x = F.max_pool2d(self.prelu2(self.conv2(x)), 3, 2, ceil_mode=True)
        x = self.prelu3(self.conv3(x))
        x = self.prelu4(self.dense4(_flatten(x)))
        return self.dense5_1(x).softmax(1)[:, 1], self.dense5_2(x)


class ONet(nn.Module):
    """Output network: 48 px patches, and five landmarks."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 3)
        self.prelu1 = nn.PReLU(32)
        self.conv2 = nn.Conv2d(32, 64, 3)
        self.prelu2 = nn.PReLU(64)
        self.conv3 = nn.Conv2d(64, 64, 3)
        self.prelu3 = nn.PReLU(64)
        self.conv4 = nn.Conv2d(64, 128, 2)
        self.prelu4 = nn.PReLU(128)
        self.dense5 = nn.Linear(1152, 256)
        self.prelu5 = nn.PReLU(256)
        self.dense6_1 = nn.Linear(256, 2)
        self.dense6_2 = nn.Linear(256, 4)
        self.dense6_3 = nn.Linear(256, 10)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Patches [N, 3, 48, 48] -> face probability [N], box correction [N, 4], landmarks [N, 10] (5 x, then 5 y)."""
        x = F.max_pool2d(self.prelu1(self.conv1(x)), 3, 2, ceil_mode=True)
        x = F.max_pool2d(self.prelu2(self.conv2(x)), 3, 2, ceil_mode=True)
        x = F.max_pool2d(self.prelu3(self.conv3(x)), 2, 2, ceil_mode=True)
        x = self.prelu4(self.conv4(x))
        x = self.prelu5(self.dense5(_flatten(x)))
        return self.dense6_1(x).softmax(1)[:, 1], self.dense6_2(x), self.dense6_3(x)


class MTCNN(nn.Module):
    """The three networks of the cascade with the bundled weights."""

    def __init__(self) -> None:
        super().__init__()
        self.pnet = PNet()
        self.rnet = RNet()
        self.onet = ONet()

    @classmethod
    def bundled(cls, device: torch.device | str = "cpu") -> MTCNN:
        """The cascade with the weights that come with this package."""
        model = cls()
        model.load_state_dict(load_file(WEIGHTS))
        return model.requires_grad_(False).eval().to(device)


class MTCNNDetector:
    """A `FaceDetector` on MTCNN.

    Args:
        device: where the networks run.
        min_face: smallest face looked for, as a fraction of the frame's short side (never under 12 px).
        thresholds: least score after the P-, R- and O-net.
        unsure: also return what scores less, down to `UNSURE`, marked as not sure: a tracker knows what to make of it.
    """

    def __init__(
        self,
        device: torch.device | str = "cpu",
        min_face: float = 0.06,
        thresholds: tuple[float, float, float] = (0.7, 0.8, 0.91),
        unsure: bool = False,
    ) -> None:
        if not 0.0 < min_face <= 1.0:
            raise OptionError(f"min_face: expected a fraction of the frame's short side in 0..1, got {min_face}.")
        if len(thresholds) != 3 or not all(0.0 <= t < 1.0 for t in thresholds):
            raise OptionError(f"thresholds: expected three probabilities in 0..1, got {thresholds}.")
        self.device = torch.device(device)
        self.min_face = float(min_face)
        self.thresholds = tuple(float(t) for t in thresholds)
        self.least = min(UNSURE, self.thresholds[2]) if unsure else self.thresholds[2]
        self._model: MTCNN | None = None

    @property
    def model(self) -> MTCNN:
        """The networks; loaded when first asked for."""
        if self._model is None:
            self._model = MTCNN.bundled(self.device)
        return self._model

    @torch.inference_mode()
    def detect(self, frames: Tensor) -> list[list[Face]]:
        """The faces of each frame, best score first.

        Args:
            frames: [N, H, W, 3] uint8 0..255 or floating point 0..1, on any device.

        Raises:
            FrameError: pictures of the wrong layout, or with NaN or infinite values.
        """
        frames = check_frames(frames)
        check_finite(frames)
        height, width = frames.shape[1:3]
        shrink = min(1.0, WORKING_SIDE / min(height, width))
        size = (max(PNET_CELL, round(height * shrink)), max(PNET_CELL, round(width * shrink)))
        chunk = max(1, CHUNK_PIXELS // (size[0] * size[1]))
        scale = np.array([width / size[1], height / size[0]])
        found: list[list[Face]] = []
        for start in range(0, len(frames), chunk):
            images = _working_copy(frames[start : start + chunk], size).to(self.device)
            found += [[_scaled(face, scale) for face in faces] for faces in self._detect(images)]
        return found

    def _detect(self, images: Tensor) -> list[list[Face]]:
        """Faces of the pictures [N, 3, H, W] (-1..1), in their pixels."""
        boxes, owner = self._propose(images)
        levels = halvings(images)
        boxes, owner = self._refine(levels, boxes, owner)
        return self._finish(levels, boxes, owner)

    def _propose(self, images: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """P-net over the pyramid -> square boxes [K, 4] and the picture [K] each belongs to."""
        found, owners, scores = [], [], []
        for size in pyramid(images.shape[2], images.shape[3], self.min_face):
            probability, correction = self.model.pnet(F.interpolate(images, size, mode="area"))
            index = (probability >= self.thresholds[0]).nonzero()
            n, i, j = index.unbind(1)
            corner = torch.stack([j, i], 1).float() * PNET_STRIDE
            zoom = torch.tensor([images.shape[3] / size[1], images.shape[2] / size[0]], device=images.device)
            window = torch.cat([corner * zoom, (corner + PNET_CELL) * zoom], 1)
            level_boxes = _corrected(window, correction[n, :, i, j]).cpu().numpy()
            windows, level_owner = window.cpu().numpy(), n.cpu().numpy()
            level_scores = probability[n, i, j].cpu().numpy()
            keep = suppress_each(windows, level_scores, level_owner, 0.5)
            found.append(np.concatenate([windows, level_boxes], 1)[keep])
            owners.append(level_owner[keep])
            scores.append(level_scores[keep])
        every, owner, score = np.concatenate(found), np.concatenate(owners), np.concatenate(scores)
        keep = suppress_each(every[:, :4], score, owner, 0.7, limit=MAX_CANDIDATES)
        return square(every[keep, 4:]), owner[keep]

    def _refine(self, levels: list[Tensor], boxes: np.ndarray, owner: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """R-net over 24 px patches -> better square boxes, fewer."""
        if not len(boxes):
            return boxes, owner
        score, correction = (out.cpu() for out in self.model.rnet(sample_patches(levels, boxes, owner, RNET_PATCH)))
        keep = np.flatnonzero(score.numpy() >= self.thresholds[1])
        keep = keep[suppress_each(boxes[keep], score.numpy()[keep], owner[keep], 0.7)]
        better = _corrected(torch.from_numpy(boxes[keep]), correction[keep]).numpy()
        return square(better), owner[keep]

    def _finish(self, levels: list[Tensor], boxes: np.ndarray, owner: np.ndarray) -> list[list[Face]]:
        """O-net over 48 px patches, twice: the faces of each picture, best first.

        The second look, at the box the first one found and at its mirror image, halves the jitter of boxes and
        landmarks. On what only looks like a face the two looks place the landmarks differently, which costs score.
        """
        faces: list[list[Face]] = [[] for _ in range(len(levels[0]))]
        landmarks, before = np.zeros((len(boxes), 5, 2)), None
        for least in (FIRST_LOOK, self.least):
            if not len(boxes):
                return faces
            score, found, landmarks = self._look(levels, square(boxes), owner)
            if before is not None:
                drift = np.abs(landmarks - before).mean((1, 2)) / np.maximum(found[:, 2] - found[:, 0], 1.0)
                score = np.maximum(score - DRIFT_PENALTY * drift, 0.0)
            keep = np.flatnonzero(score >= least)
            keep = keep[suppress_each(found[keep], score[keep], owner[keep], 0.7, of_smaller=True)]
            score, boxes, landmarks, owner = score[keep], found[keep], landmarks[keep], owner[keep]
            before = landmarks
        for n, box, points, value in zip(owner, boxes, landmarks, score, strict=True):
            x0, y0, x1, y1 = (float(v) for v in box)
            sure = float(value) >= self.thresholds[2]
            faces[n].append(Face((x0, y0, x1, y1), points.astype(np.float64), float(value), sure))
        return faces

    def _look(self, levels: list[Tensor], boxes: np.ndarray, owner: np.ndarray) -> tuple[np.ndarray, ...]:
        """O-net on patches and their mirror images: score [K], boxes [K, 4], landmarks [K, 5, 2]."""
        patches = sample_patches(levels, boxes, owner, ONET_PATCH)
        score, correction, points = (
            out.cpu().numpy().reshape(2, len(boxes), -1)
            for out in self.model.onet(torch.cat([patches, patches.flip(3)]))
        )
        mirrored = correction[1][:, [2, 1, 0, 3]] * np.array([-1, 1, -1, 1], dtype=np.float32)
        marks = points.reshape(2, len(boxes), 2, 5).swapaxes(2, 3)
        marks[1, :, :, 0] = 1.0 - marks[1, :, :, 0]
        marks = (marks[0] + marks[1][:, [1, 0, 2, 4, 3]]) / 2
        side = boxes[:, 2:] - boxes[:, :2]
        found = boxes + (correction[0] + mirrored) / 2 * np.concatenate([side, side], 1)
        return score.mean(0)[:, 0], found, marks * side[:, None] + boxes[:, None, :2]


def pyramid(height: int, width: int, min_face: float) -> list[tuple[int, int]]:
    """Sizes (h, w) of the pyramid levels: the first shows the smallest face looked for in 12 px."""
    short = min(height, width)
    scale = PNET_CELL / max(PNET_CELL, min_face * short)
    sizes = []
    while short * scale >= PNET_CELL - ROUNDING:
        sizes.append((math.ceil(height * scale), math.ceil(width * scale)))
        scale *= PYRAMID_FACTOR
    return sizes


def square(boxes: np.ndarray) -> np.ndarray:
    """Boxes [K, 4] grown to squares of their longer side about the same centre."""
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = (boxes[:, 2:] - boxes[:, :2]).max(1, keepdims=True, initial=1.0) / 2
    return np.concatenate([centre - half, centre + half], 1).astype(np.float32)


def suppress(boxes: np.ndarray, scores: np.ndarray, overlap: float, of_smaller: bool = False) -> np.ndarray:
    """Non-maximum suppression: indices of the boxes kept, best first.

    Args:
        boxes: [K, 4] as x0, y0, x1, y1.
        scores: [K].
        overlap: a box that overlaps a better one by more than this is dropped.
        of_smaller: measure the overlap against the smaller box instead of the union.
    """
    area = np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 0.0), axis=1)
    order = np.argsort(-scores, kind="stable")
    kept = []
    while len(order):
        best, order = order[0], order[1:]
        kept.append(best)
        low = np.maximum(boxes[best, :2], boxes[order, :2])
        high = np.minimum(boxes[best, 2:], boxes[order, 2:])
        common = np.prod(np.maximum(high - low, 0.0), axis=1)
        whole = np.minimum(area[best], area[order]) if of_smaller else area[best] + area[order] - common
        order = order[common <= overlap * whole]
    return np.array(kept, dtype=np.int64)


def suppress_each(
    boxes: np.ndarray,
    scores: np.ndarray,
    owner: np.ndarray,
    overlap: float,
    of_smaller: bool = False,
    limit: int | None = None,
) -> np.ndarray:
    """`suppress` apart for each picture; `owner` [K] says whose a box is, `limit` how many a picture keeps."""
    kept = []
    for n in np.unique(owner):
        mine = np.flatnonzero(owner == n)
        kept.append(mine[suppress(boxes[mine], scores[mine], overlap, of_smaller)][:limit])
    return np.concatenate(kept) if kept else np.zeros(0, dtype=np.int64)


def halvings(images: Tensor) -> list[Tensor]:
    """The pictures [N, 3, H, W], and their 2, 4, 8, ... times smaller averages down to about the O-net's patch."""
    levels = [images]
    while min(levels[-1].shape[2:]) > 2 * ONET_PATCH:
        levels.append(F.avg_pool2d(levels[-1], 2, ceil_mode=True))
    return levels


def sample_patches(levels: list[Tensor], boxes: np.ndarray, owner: np.ndarray, size: int) -> Tensor:
    """Square patches [K, 3, size, size] of the boxes, at sub-pixel positions, edges replicated, without aliasing.

    Each is sampled from the level (see `halvings`) that has at least as many pixels, at 2 x 2 points a patch pixel.
    """
    side = np.maximum(boxes[:, 2] - boxes[:, 0], 1.0)
    level = np.clip(np.floor(np.log2(side / size)), 0, len(levels) - 1).astype(np.int64)
    out = levels[0].new_empty(len(boxes), 3, size, size)
    step = (torch.arange(2 * size, device=out.device) + 0.5) / (2 * size)
    for n, k in sorted(set(zip(owner.tolist(), level.tolist(), strict=True))):
        mine = np.flatnonzero((owner == n) & (level == k))
        image = levels[k][n : n + 1]
        box = torch.from_numpy(boxes[mine]).to(image) / 2**k
        at = box[:, None, :2] + step[None, :, None] * (box[:, 2:] - box[:, :2])[:, None]
        at = at / image.new_tensor([image.shape[3], image.shape[2]]) * 2.0 - 1.0
        x = at[:, None, :, 0].expand(-1, 2 * size, -1)
        y = at[:, :, None, 1].expand(-1, -1, 2 * size)
        grid = torch.stack([x, y], -1).reshape(1, -1, 2 * size, 2)
        patch = F.grid_sample(image, grid, padding_mode="border", align_corners=False)
        patch = patch.reshape(3, len(mine), 2 * size, 2 * size).transpose(0, 1)
        out[torch.from_numpy(mine).to(out.device)] = F.avg_pool2d(patch, 2)
    return out


def _corrected(boxes: Tensor, correction: Tensor) -> Tensor:
    """Boxes [K, 4] with their corners moved by `correction` [K, 4], in units of the box's width and height."""
    side = boxes[:, 2:] - boxes[:, :2]
    return boxes + correction * torch.cat([side, side], 1)


def _working_copy(frames: Tensor, size: tuple[int, int]) -> Tensor:
    """Frames [N, H, W, 3] as the networks take them, [N, 3, h, w] float32 in -1..1."""
    if tuple(frames.shape[1:3]) != size:
        pictures = to_uint8(frames).cpu().numpy()
        shrunk = [np.asarray(Image.fromarray(p).resize(size[::-1], Image.Resampling.BOX)) for p in pictures]
        frames = torch.from_numpy(np.stack(shrunk))
    return to_unit(frames).mul(255.0 / 128.0).sub_(127.5 / 128.0).permute(0, 3, 1, 2).contiguous()


def _scaled(face: Face, scale: np.ndarray) -> Face:
    """The face in a picture `scale` (x, y) times as large."""
    sx, sy = float(scale[0]), float(scale[1])
    x0, y0, x1, y1 = face.box
    return replace(face, box=(x0 * sx, y0 * sy, x1 * sx, y1 * sy), landmarks=face.landmarks * scale)
