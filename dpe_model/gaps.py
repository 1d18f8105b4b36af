"""Frames where nothing was found, from those where something was."""

from __future__ import annotations

import numpy as np


def filled(values: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Values of the found frames [K, ...] spread over all frames [N, ...], linear in between, constant outside."""
    every, at = np.arange(len(found)), np.flatnonzero(found)
    columns = values.reshape(len(at), -1)
    out = np.stack([np.interp(every, at, columns[:, c]) for c in range(columns.shape[1])], 1)
    return out.reshape(len(found), *values.shape[1:])


def nearest(found: np.ndarray) -> np.ndarray:
    """For each frame the number of the nearest found one, itself if it is; the earlier of two. `found` is [N] bool."""
    at = np.flatnonzero(found)
    every = np.arange(len(found))
    after = np.clip(np.searchsorted(at, every), 0, len(at) - 1)
    before = np.maximum(after - 1, 0)
    return np.where(np.abs(every - at[before]) <= np.abs(at[after] - every), at[before], at[after])
