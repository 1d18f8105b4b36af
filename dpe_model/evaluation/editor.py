"""What an evaluation asks of a model: one picture driven by another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..checkpoint import Role
from ..engine import Engine
from ..frames import to_uint8
from ..motion import Edit


class Editor(Protocol):
    """Edits pictures; the engine does, and anything that is to be compared with it can."""

    @property
    def size(self) -> int:
        """Side of the pictures in pixels."""
        ...

    def edit(self, source: Tensor, driver: Tensor, *roles: Role, strength: float = 1.0) -> Tensor:
        """Each source picture driven by the driver picture of the same number.

        Args:
            source, driver: uint8 [N, S, S, 3].
            roles: what is edited, in order.
            strength: 0 = the source's own movement, 1 = the driver's.

        Returns:
            uint8 [N, S, S, 3].
        """
        ...


@dataclass(frozen=True)
class EngineEditor:
    """A checkpoint as an `Editor`, with the branch roles that it states."""

    engine: Engine

    @property
    def size(self) -> int:
        """Side of the pictures in pixels."""
        return self.engine.size

    def edit(self, source: Tensor, driver: Tensor, *roles: Role, strength: float = 1.0) -> Tensor:
        """See `Editor.edit`."""
        motion = self.engine.measure([driver])
        latent = self.engine.encode(source)
        for role in roles:
            latent = latent.with_edit(role, Edit(motion, strength))
        return to_uint8(torch.cat(list(self.engine.render(latent, *roles))))
