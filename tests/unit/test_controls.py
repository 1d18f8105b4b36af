"""Faces set by hand: what a setting is in a checkpoint's numbers, and what it changes."""

import pytest
import torch
from PIL import Image

from dpe_model.bundled import PROBES, SOURCE_STILL, default_model
from dpe_model.checkpoint import ROLES, load_checkpoint
from dpe_model.controls import (
    CONTROLS,
    ControlDirections,
    check_settings,
    known_controls,
    measure_controls,
    probe_count,
)
from dpe_model.engine import Engine
from dpe_model.errors import MotionError, OptionError
from dpe_model.motion import Edit, Motion
from dpe_model.video import read_frames

from .tiny import CONFIG, clip, tiny_checkpoint

PICTURES = 1 + sum(len(control.probes) for control in CONTROLS)


class Reader:
    """Reads off a picture what its first pixel shows: an engine for strips made by `draw_people`.

    Args:
        deaf: the numbers of a motion that no generator hears.
    """

    def __init__(self, deaf=()):
        self.deaf = list(deaf)

    def measure(self, chunks):
        return Motion(torch.cat([frames[:, 0, 0].float() for frames in chunks]), "reader")

    def edit_code(self, alpha, role):
        code = alpha + 5.0
        code[:, self.deaf] = 0.0
        return code


def draw_people(folder, *people, side=16):
    """A strip a person; each of its pictures has one colour, lossless enough at quality 100."""
    for number, colours in enumerate(people):
        strip = Image.new("RGB", (side * len(colours), side))
        for place, colour in enumerate(colours):
            strip.paste(tuple(colour), (side * place, 0, side * (place + 1), side))
        strip.save(folder / f"person_{number}.jpg", quality=100, subsampling=0)
    return folder


def places():
    """Of each control, where its pictures are in a strip."""
    first = 1
    for control in CONTROLS:
        yield control, range(first, first + len(control.probes))
        first += len(control.probes)


def test_directions_are_the_mean_change_by_unit(tmp_path):
    """Two people: red moves by 2 a degree of yaw in one and by 4 in the other, green by 60 with a smile of 1."""
    people = []
    for slope in (2, 4):
        colours = [[100, 100, 100] for _ in range(PICTURES)]
        for control, where in places():
            for place, setting in zip(where, control.probes, strict=True):
                if control.name == "yaw":
                    colours[place][0] += int(slope * setting)
                elif control.name == "smile":
                    colours[place][1] += int(60 * setting)
        people.append(colours)
    found = measure_controls(Reader(), folder=draw_people(tmp_path, *people))
    assert set(found.directions) == {control.name for control in CONTROLS}
    assert torch.allclose(found.directions["yaw"], torch.tensor([3.0, 0.0, 0.0]), atol=0.1)
    assert torch.allclose(found.directions["smile"], torch.tensor([0.0, 60.0, 0.0]), atol=1.5)
    assert found.directions["pitch"].abs().max() < 0.1
    assert found.agreement["smile"] == pytest.approx(1.0, abs=1e-3)


def test_people_who_disagree_are_noticed(tmp_path):
    blink = next(where[0] for control, where in places() if control.name == "blink")
    people = [[[100, 100, 100] for _ in range(PICTURES)] for _ in range(2)]
    people[0][blink], people[1][blink] = [160, 100, 100], [100, 160, 100]
    found = measure_controls(Reader(), folder=draw_people(tmp_path, *people))
    assert found.agreement["blink"] == pytest.approx(0.5**0.5, abs=0.02)


def test_only_what_a_generator_hears_counts_as_disagreement(tmp_path):
    blink = next(where[0] for control, where in places() if control.name == "blink")
    people = [[[100, 100, 100] for _ in range(PICTURES)] for _ in range(2)]
    people[0][blink], people[1][blink] = [160, 160, 100], [160, 40, 100]
    folder = draw_people(tmp_path, *people)
    assert measure_controls(Reader(), folder=folder).agreement["blink"] == pytest.approx(0.5**0.5, abs=0.02)
    assert measure_controls(Reader(deaf=[1]), folder=folder).agreement["blink"] == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("pictures", [PICTURES - 1, PICTURES + 1])
def test_strips_of_other_controls_are_refused(tmp_path, pictures):
    draw_people(tmp_path, [[100, 100, 100]] * pictures)
    with pytest.raises(OptionError, match=rf"expected {PICTURES} square pictures.*{16 * pictures}x16"):
        measure_controls(Reader(), folder=tmp_path)


def test_missing_strips_are_named(tmp_path):
    with pytest.raises(OptionError, match="missing"):
        measure_controls(Reader(), folder=tmp_path)
    with pytest.raises(OptionError, match="missing"):
        probe_count(tmp_path)


def directions(**known):
    zero = torch.zeros(CONFIG.motion_dim)
    return ControlDirections({c.name: known.get(c.name, zero) for c in CONTROLS}, {c.name: 1.0 for c in CONTROLS})


def rendered(latent, *roles):
    return torch.cat(list(Engine(tiny_checkpoint()).render(latent, *roles)))


def test_settings_move_their_own_role_alone():
    known = directions(yaw=torch.tensor([1.0, 0.0, 0.0]), smile=torch.tensor([0.0, 2.0, 0.0]))
    latent = Engine(tiny_checkpoint()).encode(clip(3))
    edited = known.apply(latent, {"yaw": 10.0, "smile": 0.5, "blink": 0.0})
    assert edited.shifts["pose"].tolist() == [10.0, 0.0, 0.0]
    assert edited.shifts["expression"].tolist() == [0.0, 1.0, 0.0]
    assert known.apply(latent, {"smile": 0.5}).changes("expression")
    assert not known.apply(latent, {"smile": 0.5}).changes("pose")
    assert not known.apply(latent, {"smile": 0.0}).changes("expression")


def test_a_setting_is_the_motion_it_names():
    """What is rendered is what a driver with just these numbers would give."""
    latent = Engine(tiny_checkpoint()).encode(clip(4))
    moved = torch.tensor([0.3, -0.2, 0.1])
    edited = directions(smile=moved).apply(latent, {"smile": 1.5})
    driver = Motion(latent.motion.alpha + 1.5 * moved, latent.checkpoint)
    expected = rendered(latent.with_edit("expression", Edit(driver)), "expression")
    assert torch.allclose(rendered(edited, "expression"), expected, atol=1e-5)
    assert not torch.allclose(rendered(latent, "expression"), expected, atol=1e-3)


def test_settings_come_after_drivers_and_add_up():
    latent = Engine(tiny_checkpoint()).encode(clip(4))
    driver = Engine(tiny_checkpoint()).encode(clip(6, seed=1)).motion
    known = directions(smile=torch.tensor([1.0, 0.0, 0.0]))
    before = known.apply(known.apply(latent, {"smile": 0.5}).with_edit("expression", Edit(driver)), {"smile": 0.25})
    after = known.apply(latent.with_edit("expression", Edit(driver)), {"smile": 0.75})
    plans = [each.plan("expression").apply(latent.motion.alpha, 0) for each in (before, after)]
    assert torch.allclose(plans[0], plans[1])
    assert torch.allclose(plans[0], driver.alpha[:4] + torch.tensor([0.75, 0.0, 0.0]))


@pytest.mark.parametrize("policy", ["hold", "trim"])
def test_a_still_set_by_hand_stays_one_picture(policy):
    latent = Engine(tiny_checkpoint()).encode(clip(1)).with_policy(policy, "seconds")
    edited = directions(yaw=torch.ones(3)).apply(latent, {"yaw": 1.0})
    assert len(rendered(edited, "pose")) == edited.length == 1


def test_both_roles_are_rendered_in_turn():
    known = directions(yaw=torch.ones(3), smile=torch.ones(3))
    latent = Engine(tiny_checkpoint()).encode(clip(2))
    both = rendered(known.apply(latent, {"yaw": 1.0, "smile": 1.0}), "expression", "pose")
    assert not torch.allclose(both, rendered(known.apply(latent, {"yaw": 1.0}), "pose"), atol=1e-3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"grin": 1.0}, "grin: no such control. There are yaw, "),
        ({"smile": float("nan")}, r"smile: expected -1\.5\.\.1\.5, got nan"),
        ({"yaw": -31.0}, r"yaw: expected -30\.\.30, got -31"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, message):
    with pytest.raises(OptionError, match=message):
        check_settings(settings)
    with pytest.raises(OptionError, match=message):
        directions().apply(Engine(tiny_checkpoint()).encode(clip(1)), settings)


def test_a_shift_of_another_model_is_refused():
    latent = Engine(tiny_checkpoint()).encode(clip(1))
    with pytest.raises(MotionError, match=r"expected a shift of 3 numbers, got \[4\]"):
        latent.with_shift("pose", torch.ones(4))


def test_pictures_without_a_change_are_passed_on():
    frames = clip(5, size=16)
    counted = Engine(tiny_checkpoint(), chunk=2)
    latent = counted.encode(frames)
    before = counted.passes.encoder
    same = torch.cat(list(counted.unchanged(latent)))
    assert torch.equal(same, frames.float() / 255)
    assert (counted.passes.encoder, counted.passes.generator) == (before, 0)
    assert torch.cat(list(counted.unchanged(counted.encode(clip(2, size=32))))).shape == (2, 16, 16, 3)


@pytest.fixture(scope="module")
def bundled():
    return Engine(load_checkpoint(default_model()))


@pytest.fixture(scope="module")
def known(bundled):
    return measure_controls(bundled)


def test_every_probe_is_read_once():
    engine, counted = Engine(tiny_checkpoint()), []
    measure_controls(engine, counted.append)
    assert engine.passes.encoder == sum(counted) == probe_count()


def test_a_network_is_measured_once_however_often_it_is_asked():
    checkpoint = tiny_checkpoint()
    first, second, other = Engine(checkpoint), Engine(checkpoint), Engine(tiny_checkpoint())
    counted = []
    assert known_controls(first, counted.append) is known_controls(second, counted.append)
    assert (first.passes.encoder, second.passes.encoder) == (probe_count(), 0)
    assert sum(counted) == 2 * probe_count(), "a progress bar ends in either case"
    known_controls(other)
    assert other.passes.encoder == probe_count()


def heard(engine, alpha, role):
    """What the code of a role's edit gains by motions [N, M]."""
    return engine.edit_code(alpha, role) - engine.edit_code(torch.zeros_like(alpha), role)


def test_the_bundled_model_knows_every_control(bundled, known):
    """Agreement was 0.88 for brows, 0.93 and more for all others; each setting does something else than the others."""
    assert min(known.agreement.values()) > 0.85
    for role in ROLES:
        mine = [control for control in CONTROLS if control.role == role]
        fully = heard(bundled, torch.stack([known.directions[c.name] * c.probes[0] for c in mine]), role)
        unit = torch.nn.functional.normalize(fully, dim=1)
        alike = unit @ unit.T - torch.eye(len(unit))
        assert alike.abs().max() < 0.7
        assert fully.norm(dim=1).min() > 3.0


@pytest.mark.parametrize("settings", [{"yaw": 10.0}, {"pitch": -8.0}, {"roll": 8.0}, {"smile": 0.9}, {"blink": 1.0}])
def test_a_face_set_by_hand_is_read_as_set(bundled, known, settings):
    """The bundled portrait, rendered and measured again: a turn is that turn, and no expression turns the head.

    Both were within half a degree.
    """
    frames = read_frames(SOURCE_STILL)
    ((name, value),) = settings.items()
    role = next(control.role for control in CONTROLS if control.name == name)
    latent = bundled.encode(frames)
    moved, still = (
        bundled.measure(list(bundled.render(each, role))).alpha for each in (known.apply(latent, settings), latent)
    )
    turns = heard(bundled, torch.stack([known.directions[pose] for pose in ("yaw", "pitch", "roll")]), "pose")
    read = torch.linalg.lstsq(turns.T, heard(bundled, moved - still, "pose").T).solution[:, 0]
    asked = torch.tensor([settings.get(pose, 0.0) for pose in ("yaw", "pitch", "roll")])
    assert (read - asked).abs().max() < 1.0


def test_every_strip_is_a_person_in_all_settings():
    strips = sorted(PROBES.glob("*.jpg"))
    assert len(strips) * PICTURES == probe_count()
    for strip in strips:
        with Image.open(strip) as picture:
            assert picture.size == (256 * PICTURES, 256)
