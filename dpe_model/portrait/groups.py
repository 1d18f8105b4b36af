"""Clustering of some thousand things, some of which must not meet."""

from __future__ import annotations

import numpy as np


class Groups:
    """Average-link clustering: the two nearest groups are joined, until none are nearer than 1.

    Args:
        total: [n, n] symmetric, how far two things are apart, times what the pair counts.
        weight: [n, n] symmetric, what the pair counts; 0 where nothing is known of it.
        never: [n, n] symmetric bool, pairs that must not be in one group.
    """

    def __init__(self, total: np.ndarray, weight: np.ndarray, never: np.ndarray) -> None:
        self._total, self._weight, self._never = total, weight, never
        self.members = [[k] for k in range(len(total))]
        self._alive = np.ones(len(total), dtype=bool)
        np.fill_diagonal(self._never, True)
        rows = [self._row(k) for k in range(len(total))]
        self._best = np.array([row.min() for row in rows], dtype=np.float32)
        self._with = np.array([row.argmin() for row in rows], dtype=np.int64)

    def closest(self) -> tuple[int, int] | None:
        """The two groups least apart, by less than 1; None where there are none."""
        if not len(self._best):
            return None
        a = int(self._best.argmin())
        return (a, int(self._with[a])) if self._best[a] < 1.0 else None

    def join(self, a: int, b: int) -> None:
        """Make one group of two."""
        self.members[a] += self.members[b]
        self.members[b] = []
        self._alive[b] = False
        self._best[b] = np.inf
        for table, joined in (
            (self._total, self._total[a] + self._total[b]),
            (self._weight, self._weight[a] + self._weight[b]),
            (self._never, self._never[a] | self._never[b]),
        ):
            table[a], table[:, a] = joined, joined
        stale = self._alive & ((self._with == a) | (self._with == b))
        stale[a] = True
        row = self._row(a)
        # The others were nearest to somebody else: only the joined group can have come nearer.
        nearer = self._alive & ~stale & (row < self._best)
        self._best[nearer], self._with[nearer] = row[nearer], a
        for k in np.flatnonzero(stale):
            row = self._row(int(k))
            self._best[k], self._with[k] = row.min(), row.argmin()

    def _row(self, k: int) -> np.ndarray:
        """How far each group is from group k; infinite where they must not meet, or nothing is known."""
        usable = self._alive & ~self._never[k] & (self._weight[k] > 0.0)
        return np.where(usable, self._total[k] / np.maximum(self._weight[k], 1e-9), np.inf)
