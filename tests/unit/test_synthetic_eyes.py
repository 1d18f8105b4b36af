"""Eyes of rendered heads: what lies over a ball stays over it, and what is drawn of eyes changes nothing else."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("numba")

from dpe_model.training.synthetic import HeadParams, Studio, render  # noqa: E402
from dpe_model.training.synthetic.eyes import LID_THICKNESS, Eyeball, Eyes  # noqa: E402
from dpe_model.training.synthetic.geometry import EYE, SKIN, rotation  # noqa: E402

from .test_synthetic import head_fields  # noqa: E402


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Studio:
    path: Path = tmp_path_factory.mktemp("head") / "head.npz"
    np.savez(path, **{**head_fields(), "names": np.array(["jawOpen", "eyeBlink_L"])})
    return Studio.load(path)


def test_lids_never_cut_into_the_ball_they_lie_on(studio: Studio) -> None:
    template = studio.template
    vertices, centre = template.eyes[0]
    eyeball = Eyeball.of(template, vertices, centre, template.neutral)
    ball = np.linalg.norm(template.neutral[vertices] - centre, axis=1).mean()
    assert len(eyeball.lids) > 0
    assert set(template.vertex_region[eyeball.lids]) == {SKIN}
    for turn in (np.eye(3, dtype=np.float32), rotation(25.0, -10.0, 0.0)):
        head = template.neutral.copy()
        head[eyeball.lids] -= 0.5 * (head[eyeball.lids] - centre)  # shut lids that sank in
        eyeball.move(head, turn)
        distance = np.linalg.norm(head[eyeball.lids] - centre, axis=1)
        assert distance == pytest.approx(ball + LID_THICKNESS, abs=0.01)
        assert np.linalg.norm(head[vertices] - centre, axis=1) == pytest.approx(ball, abs=1e-3)


def test_lids_that_lie_well_outside_stay_where_they_are(studio: Studio) -> None:
    template = studio.template
    vertices, centre = template.eyes[1]
    eyeball = Eyeball.of(template, vertices, centre, template.neutral)
    head = template.neutral.copy()
    head[eyeball.lids] = centre + 2.0 * (head[eyeball.lids] - centre) / np.linalg.norm(
        head[eyeball.lids] - centre, axis=1, keepdims=True
    )
    before = head.copy()
    eyeball.move(head, np.eye(3, dtype=np.float32))
    assert np.allclose(head, before, atol=1e-5)


def test_eyes_as_constructed_are_the_head_models_own(studio: Studio) -> None:
    weights = np.array([0.3, 0.6], np.float32)
    assert not Eyes().displacement(studio.template).any()
    assert np.array_equal(Eyes().at_rest(studio.template, weights), weights)


def test_lids_that_hang_at_rest_are_shut_by_the_same_blink(studio: Studio) -> None:
    eyes = Eyes(blink=0.25)
    for blink, wanted in ((0.0, 0.25), (0.4, 0.55), (1.0, 1.0)):
        weights = np.array([0.3, blink], np.float32)
        assert eyes.at_rest(studio.template, weights) == pytest.approx([0.3, wanted])
        assert weights == pytest.approx([0.3, blink])  # untouched


def test_a_hood_comes_down_over_eyes_that_stay(studio: Studio) -> None:
    template = studio.template
    moved = Eyes(hood=0.5, ridge=0.3).displacement(template)
    brows = moved[template.landmarks[17:27]]
    assert brows[:, 1].min() >= -0.5 and brows[:, 1].mean() < -0.2
    assert brows[:, 2].mean() > 0.1
    assert not moved[template.vertex_region == EYE].any()
    assert np.abs(moved[template.neutral[:, 1] < 0.0]).max() < 0.01


def test_other_eyes_leave_the_rest_of_the_picture(studio: Studio) -> None:
    drawn, plain = (studio.sample_scene(np.random.default_rng(8), eyes=eyes) for eyes in (None, Eyes()))
    assert np.array_equal(drawn.look.hair, plain.look.hair)
    assert drawn.camera == plain.camera and drawn.post == plain.post
    eyes = drawn.person.eyes
    assert eyes != Eyes() and plain.person.eyes == Eyes()
    params = HeadParams()
    first, second = (render(scene, params, 64).linear for scene in (drawn, plain))
    changed = np.abs(first - second).max(-1) > 0.02
    rows = np.nonzero(changed.any(1))[0]
    assert changed.any() and rows.max() < 44  # eyes are in the upper half, mouth and clothes below


def test_twins_differ_in_the_eyes_alone_and_are_decided_by_the_seed(studio: Studio) -> None:
    made, again, other = (studio.sample_twins(np.random.default_rng(seed), 64) for seed in (2, 2, 3))
    assert np.array_equal(made.picture, again.picture) and np.array_equal(made.plain, again.plain)
    assert not np.array_equal(made.picture, other.picture)
    assert made.picture.shape == (64, 64, 3) and made.landmarks.shape == (68, 2) and made.shape.shape == (68, 3)
    apart = np.abs(made.picture.astype(int) - made.plain).max(-1) > 8
    assert apart.any() and apart.mean() < 0.3


@pytest.mark.parametrize("name", [f.name for f in fields(Eyes)])
def test_every_quality_of_eyes_varies_between_people(name: str) -> None:
    values = np.array([getattr(Eyes.sample(np.random.default_rng(i)), name) for i in range(60)])
    assert np.ptp(values) > 0.1
