"""Motion that is measured when its numbers are first looked at.

A source's own motion is seldom looked at: rendering encodes its frames anyway, for their features. Measured beforehand,
a clip too long for its features to be kept would pass the encoder twice.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from .errors import MotionError
from .motion import Motion


class DeferredMotion(Motion):
    """Looks like any motion, and is measured once, when its numbers are first asked for.

    Args:
        measure: gives alpha [frames, numbers]. Called once if it succeeds, and let go then with all that it holds.
        frames, numbers: how many there will be.
        checkpoint, fps: as in `Motion`.
    """

    _measure: Callable[[], Tensor] | None
    _measured: Motion | None
    _frames: int
    _numbers: int

    def __init__(
        self, measure: Callable[[], Tensor], frames: int, numbers: int, checkpoint: str, fps: float | None = None
    ) -> None:
        self._set(checkpoint=checkpoint, fps=fps, times=None)
        self._set(_measure=measure, _measured=None, _frames=frames, _numbers=numbers)

    def _set(self, **values: object) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @property
    def alpha(self) -> Tensor:
        """[N, M] float32 on the CPU; see `settled` for what it raises."""
        return self.settled().alpha

    def settled(self) -> Motion:
        """The motion as measured.

        Raises:
            MotionError: the measurement has another shape than was announced, or is not finite.
            Whatever the measurement raises; it is tried again the next time.
        """
        if self._measured is None:
            assert self._measure is not None
            found = Motion(self._measure(), self.checkpoint, self.fps)
            if found.alpha.shape != (self._frames, self._numbers):
                raise MotionError(
                    f"motion: expected alpha [{self._frames}, {self._numbers}], got {list(found.alpha.shape)}."
                )
            self._set(_measured=found, _measure=None)
            return found
        return self._measured

    @property
    def measured(self) -> bool:
        """Whether the numbers are known."""
        return self._measured is not None

    @property
    def numbers(self) -> int:
        """Numbers a frame."""
        return self._numbers

    def __len__(self) -> int:
        return self._frames

    def __repr__(self) -> str:
        # The inherited one would measure, and hosts print the inputs of a node that failed.
        state = "measured" if self.measured else "not measured yet"
        return f"{type(self).__name__}({len(self)} frames, {self.numbers} numbers, {state})"
