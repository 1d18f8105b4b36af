"""What keeps numbers that are not finite out of a run's weights."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping

import torch
from torch import Tensor

from ..errors import DPEError

logger = logging.getLogger(__name__)

MOST_SKIPPED = 10
"""Steps in a row without a finite gradient after which a run gives up."""
WARN_SECONDS = 60.0
"""Shortest time between two warnings."""


class DivergedError(DPEError):
    """Training has come to numbers that are not finite, from which it does not recover."""


class GradientGuard:
    """Decides whether an optimiser may take a step, by the norm of all gradients together.

    Args:
        what: whose gradients they are, for messages.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self._in_a_row = self._unsaid = 0
        self._warned = -WARN_SECONDS

    def allows(self, norm: Tensor, step: int) -> bool:
        """Whether the norm (a scalar) of the gradients of step number `step` is finite.

        Raises:
            DivergedError: `MOST_SKIPPED` in a row were not.
        """
        if bool(torch.isfinite(norm)):
            self._in_a_row = 0
            return True
        self._in_a_row += 1
        self._unsaid += 1
        if self._in_a_row >= MOST_SKIPPED:
            raise DivergedError(
                f"step {step + 1}: expected finite gradients of the {self.what}, got NaN or infinite ones in "
                f"{self._in_a_row} steps in a row. Resume from what was saved last, with a smaller optimiser.lr, with "
                "optimiser.clip, or with precision fp32; or look for a sample that is broken."
            )
        if time.monotonic() - self._warned >= WARN_SECONDS:
            logger.warning(
                "Step %d: gradients of the %s are not finite; its update is left out (%d such since the last warning).",
                step + 1,
                self.what,
                self._unsaid,
            )
            self._warned, self._unsaid = time.monotonic(), 0
        return False


def check_finite(tensors: Mapping[str, Tensor], what: str) -> None:
    """Refuse weights that are not finite.

    Raises:
        DivergedError: a tensor holds NaN or infinity; the message names the first.
    """
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise DivergedError(
                f"{what}: expected finite weights, found NaN or infinity in {name}. Nothing was written; what was "
                "saved before stays. Resume from it with a smaller optimiser.lr or with optimiser.clip."
            )
