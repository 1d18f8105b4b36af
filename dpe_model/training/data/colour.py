"""Changes of colour at random."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def recolour(images: Tensor, amounts: Any) -> Tensor:
    """Pictures [N, 3, S, S] in -1..1 with more brightness, contrast and saturation: `amounts` [3], 0 = as they were."""
    brightness, contrast, saturation = (float(a) for a in amounts)
    grey = images.mean(1, keepdim=True)
    images = grey + (images - grey) * (1.0 + saturation)
    return (images * (1.0 + contrast) + brightness).clamp(-1.0, 1.0)
