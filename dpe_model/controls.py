"""Controls: a face set by hand, by settings such as a smile of 0.5 or a turn of 10 degrees.

What the numbers of a motion mean is a checkpoint's own affair, and nothing in its file tells. So it is measured: the
checkpoint reads rendered people at rest and with one thing changed at a time, and the mean difference of the numbers by
unit of that change is the control's direction (as attribute vectors of Larsen et al., "Autoencoding beyond pixels using
a learned similarity metric", ICML 2016). A setting adds its share of the direction to the motion of every frame, after
all drivers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from .bundled import PROBES
from .checkpoint import ROLES, Role
from .engine import Engine
from .errors import OptionError
from .latent import Latent
from .network import DPENetwork
from .video import read_frames


@dataclass(frozen=True)
class Control:
    """One thing about a face that can be set.

    Attributes:
        name: what it is called.
        role: which edit does it.
        limit: how far it may sensibly be set either way; 30 degrees, or so many times what counts as fully.
        probes: the settings in which the rendered people show it.
        meaning: what settings above and below 0 do.
    """

    name: str
    role: Role
    limit: float
    probes: tuple[float, ...]
    meaning: str

    @property
    def degrees(self) -> bool:
        """Whether settings are degrees; else 1 is fully."""
        return self.role == "pose"


CONTROLS: tuple[Control, ...] = (
    Control("yaw", "pose", 30.0, (15.0, -15.0), "above 0 the head turns to the viewer's right, below 0 to the left"),
    Control("pitch", "pose", 20.0, (10.0, -10.0), "above 0 the head nods down, below 0 it looks up"),
    Control("roll", "pose", 20.0, (10.0, -10.0), "above 0 the head tilts counter-clockwise, below 0 clockwise"),
    Control("mouth_open", "expression", 1.5, (1.0,), "1 is a mouth wide open; below 0 an open one closes"),
    Control("smile", "expression", 1.5, (1.0,), "1 is a broad smile; below 0 a smile fades, then the mouth narrows"),
    Control("pucker", "expression", 1.5, (1.0,), "1 is lips as for a kiss; below 0 they are stretched wide"),
    Control("lip_raise", "expression", 1.5, (1.0,), "1 is an upper lip raised as in disgust; below 0 it comes down"),
    Control("blink", "expression", 1.5, (1.0,), "1 is eyes shut; below 0 they open, -0.2 is wide open"),
    Control("brows", "expression", 1.5, (1.0,), "1 is brows fully raised; below 0 they come down, -0.4 is a frown"),
)
"""All controls. The pictures of a person among the `PROBES` are in this order, the one at rest before them all."""


@dataclass(frozen=True)
class ControlDirections:
    """What one unit of every control is in a checkpoint's numbers.

    Attributes:
        directions: by name of the control, [M] float32 on the CPU.
        agreement: by name, how far the rendered people agree on the direction: the mean cosine between theirs and the
            mean one, 1 = entirely; of codes, as a motion may hold numbers that the control's generator never hears.
    """

    directions: Mapping[str, Tensor]
    agreement: Mapping[str, float]

    def apply(self, latent: Latent, settings: Mapping[str, float]) -> Latent:
        """A latent with the face set; settings of 0 leave it alone.

        Args:
            latent: the person, perhaps with drivers: these come first.
            settings: by name of the control: degrees, or 1 = fully.

        Raises:
            OptionError: what `check_settings` refuses.
            MotionError: the latent is of a model with other numbers.
        """
        check_settings(settings)
        for role in set_roles(settings):
            latent = latent.with_shift(role, self.shift(role, settings))
        return latent

    def shift(self, role: Role, settings: Mapping[str, float]) -> Tensor:
        """What a role's settings, at least one, add to a motion: [M] float32 on the CPU."""
        mine = [control.name for control in CONTROLS if control.role == role and control.name in settings]
        return torch.stack([self.directions[name] * settings[name] for name in mine]).sum(0)


def check_settings(settings: Mapping[str, float]) -> None:
    """Refuse settings that mean nothing.

    Raises:
        OptionError: an unknown control, or a setting that is no number or beyond the control's limit.
    """
    limits = {control.name: control.limit for control in CONTROLS}
    for name, value in settings.items():
        if name not in limits:
            raise OptionError(f"{name}: no such control. There are {', '.join(limits)}.")
        if not abs(value) <= limits[name]:
            raise OptionError(f"{name}: expected {-limits[name]:g}..{limits[name]:g}, got {value}.")


def set_roles(settings: Mapping[str, float]) -> list[Role]:
    """The roles of which something is set to other than 0, in the published order."""
    moved = {control.role for control in CONTROLS if settings.get(control.name)}
    return [role for role in ROLES if role in moved]


def measure_controls(
    engine: Engine, count: Callable[[int], None] = lambda pictures: None, folder: Path = PROBES
) -> ControlDirections:
    """Measure what the controls are in the numbers of the engine's checkpoint.

    Args:
        engine: reads the pictures, some eighty.
        count: called with the number of pictures read since it was last called, `probe_count` in all.
        folder: a strip of pictures for each person, see `CONTROLS`.

    Raises:
        OptionError: the pictures are missing or are of other controls.
    """
    people = torch.stack([_pictures(path) for path in _strips(folder)])
    alpha = engine.measure(_counted(people, count)).alpha.unflatten(0, people.shape[:2])
    directions: dict[str, Tensor] = {}
    agreement: dict[str, float] = {}
    first = 1
    for control in CONTROLS:
        settings = torch.tensor(control.probes)
        moved = alpha[:, first : first + len(settings)] - alpha[:, :1]
        # Least squares through the origin: [people, settings, M] -> [people, M].
        each = torch.einsum("psm,s->pm", moved, settings) / settings.square().sum()
        directions[control.name] = each.mean(0)
        heard = engine.edit_code(torch.cat((each, torch.zeros_like(each[:1]))), control.role)
        codes = heard[:-1] - heard[-1]
        agreement[control.name] = float(torch.cosine_similarity(codes, codes.mean(0, keepdim=True), dim=1).mean())
        first += len(settings)
    return ControlDirections(directions, agreement)


@cache
def _known() -> WeakKeyDictionary[DPENetwork, ControlDirections]:
    return WeakKeyDictionary()


def known_controls(engine: Engine, count: Callable[[int], None] = lambda pictures: None) -> ControlDirections:
    """As `measure_controls`, but measured once for a network, however many clips and nodes ask."""
    known = _known()
    if engine.network in known:
        count(probe_count())
    else:
        known[engine.network] = measure_controls(engine, count)
    return known[engine.network]


def _counted(people: Tensor, count: Callable[[int], None]) -> Iterator[Tensor]:
    for pictures in people:
        yield pictures
        count(len(pictures))


def probe_count(folder: Path = PROBES) -> int:
    """How many pictures `measure_controls` reads. Errors as there, but for pictures of other controls."""
    return len(_strips(folder)) * _settings_count()


def _settings_count() -> int:
    return 1 + sum(len(control.probes) for control in CONTROLS)


def _strips(folder: Path) -> list[Path]:
    strips = sorted(folder.glob("*.jpg"))
    if not strips:
        raise OptionError(
            f"{folder}: the pictures that controls are measured with are missing. Install the package again."
        )
    return strips


def _pictures(strip: Path) -> Tensor:
    """The pictures [n, S, S, 3] of a strip [S, n * S, 3]."""
    picture = read_frames(strip)[0]
    side, wanted = picture.shape[0], _settings_count()
    if picture.shape[1] != side * wanted:
        raise OptionError(
            f"{strip}: expected {wanted} square pictures side by side, got {picture.shape[1]}x{side} pixels. Install "
            "the package again."
        )
    return picture.unflatten(1, (wanted, side)).transpose(0, 1).contiguous()
