"""Samples for training: pairs of frames of one clip, and tuples of rendered heads with their truth."""

from __future__ import annotations

from ...errors import DataError
from .batches import (
    EXPRESSION_DIM,
    LANDMARK_DIM,
    LANDMARK_UNIT,
    POSE_DIM,
    Batch,
    PairBatch,
    SupervisedBatch,
    TwinBatch,
    expression_units,
    shrink_flow,
)
from .step_data import Share, StepData, step_batches

__all__ = [
    "EXPRESSION_DIM",
    "LANDMARK_DIM",
    "LANDMARK_UNIT",
    "POSE_DIM",
    "Batch",
    "DataError",
    "PairBatch",
    "Share",
    "StepData",
    "SupervisedBatch",
    "TwinBatch",
    "expression_units",
    "shrink_flow",
    "step_batches",
]
