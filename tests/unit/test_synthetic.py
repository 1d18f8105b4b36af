"""Rendered heads, on a coarse head made here: the real model is 25 MB and stays outside the repository."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("numba")

from dpe_model.frames import to_network  # noqa: E402
from dpe_model.training.config import Source  # noqa: E402
from dpe_model.training.data import DataError, Share, StepData, step_batches  # noqa: E402
from dpe_model.training.data.rendered import RenderReader  # noqa: E402
from dpe_model.training.framing import STEADY, framing  # noqa: E402
from dpe_model.training.synthetic import (  # noqa: E402  # noqa: E402
    TARGET_NAMES,
    HeadModelError,
    HeadParams,
    ICTFaceKit,
    Studio,
    correspondence,
    geometry,
    render,
    shards,
)
from dpe_model.training.synthetic.appearance import Post  # noqa: E402
from dpe_model.training.synthetic.sampling import IMAGE_NAMES, POSE_LIMIT  # noqa: E402

ROWS, COLUMNS = 40, 48


def ball(centre: tuple[float, float, float], radii: tuple[float, float, float], rows: int, columns: int):
    """Vertices and outward counter-clockwise faces of an ellipsoid."""
    latitude = np.linspace(np.pi / 2, -np.pi / 2, rows)[:, None]
    longitude = np.linspace(0, 2 * np.pi, columns, endpoint=False)[None]
    points = np.stack(
        [np.cos(latitude) * np.sin(longitude), np.sin(latitude) + 0 * longitude, np.cos(latitude) * np.cos(longitude)],
        -1,
    )
    row, column = np.meshgrid(np.arange(rows - 1), np.arange(columns), indexing="ij")
    a, b = row * columns + column, row * columns + (column + 1) % columns
    c, d = a + columns, b + columns
    faces = np.concatenate([np.stack([a, c, b], -1).reshape(-1, 3), np.stack([b, c, d], -1).reshape(-1, 3)])
    return points.reshape(-1, 3) * radii + centre, faces


def head_fields() -> dict[str, np.ndarray]:
    """A head in the fields of an ICT-FaceKit export: skull, neck, eyeballs, two modes of identity and expression."""
    parts = [
        ("M_Face", ball((0, 3, 0), (8, 11, 10), ROWS, COLUMNS)),
        ("M_BackHead", ball((0, -11, -2), (5.5, 9, 4), 16, 24)),
        ("M_ScleraLeft", ball((3.1, 3.6, 8.2), (1.6, 1.6, 1.6), 12, 16)),
        ("M_ScleraRight", ball((-3.1, 3.6, 8.2), (1.6, 1.6, 1.6), 12, 16)),
    ]
    names = [name for name, _ in parts]
    offsets = np.cumsum([0] + [len(vertices) for _, (vertices, _) in parts])
    neutral = np.concatenate([vertices for _, (vertices, _) in parts])
    faces = np.concatenate([f + o for (_, (_, f)), o in zip(parts, offsets, strict=False)])
    material = np.concatenate([np.full(len(f), i) for i, (_, (_, f)) in enumerate(parts)])
    modes = np.zeros((2, len(neutral), 3))
    modes[0, :, 0] = 0.05 * neutral[:, 0]
    modes[1, :, 1] = 0.05 * neutral[:, 1]
    expressions = np.zeros((2, len(neutral), 3))
    low = np.clip((-1.0 - neutral[:, 1]) / 4.0, 0, 1) * (neutral[:, 2] > 2)
    expressions[0, :, 1] = -2.0 * low
    expressions[1, :, 0] = 0.8 * low * np.sign(neutral[:, 0])
    # Landmarks where faces have them, on the nearest vertices of the skull.
    spots = np.zeros((68, 2))
    spots[17:22] = [[x, 6.0] for x in np.linspace(-5.8, -1.2, 5)]
    spots[22:27] = [[x, 6.0] for x in np.linspace(1.2, 5.8, 5)]
    for start, side in ((36, -1), (42, 1)):
        turn = np.linspace(np.pi, -np.pi, 6, endpoint=False)
        spots[start : start + 6] = np.stack([side * 3.1 + 1.4 * np.cos(turn), 3.5 + 0.5 * np.sin(turn)], -1)
    turn = np.linspace(np.pi, -np.pi, 12, endpoint=False)
    spots[48:60] = np.stack([2.5 * np.cos(turn), -3.4 + 0.9 * np.sin(turn)], -1)
    front = np.nonzero((neutral[:, 2] > 0) & (np.arange(len(neutral)) < ROWS * COLUMNS))[0]
    marks = [front[np.argmin(((neutral[front, :2] - spot) ** 2).sum(1))] for spot in spots]
    return {
        "neu": neutral.astype(np.float32),
        "ids": modes.astype(np.float16),
        "exs": expressions.astype(np.float16),
        "names": np.array(["jawOpen", "mouthSmile_L"]),
        "faces": faces.astype(np.int32),
        "mat": material.astype(np.int8),
        "matnames": np.array(names),
        "lm": np.array(marks, np.int64),
    }


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("head") / "head.npz"
    np.savez(path, **head_fields())
    return path


@pytest.fixture(scope="module")
def studio(head: Path) -> Studio:
    return Studio.load(head)


def warp(picture: np.ndarray, flow: np.ndarray) -> np.ndarray:
    image = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None].float()
    moved = F.grid_sample(image, torch.from_numpy(flow)[None], padding_mode="border", align_corners=False)
    return moved[0].permute(1, 2, 0).numpy()


def test_same_seed_same_sample_other_seed_other_sample(studio: Studio) -> None:
    first, again, other = (studio.sample_tuple(np.random.default_rng(seed), False, 64) for seed in (3, 3, 4))
    assert np.array_equal(first.images(), again.images())
    assert first.source_params == again.source_params
    for name in TARGET_NAMES:
        assert np.array_equal(first.flows[name], again.flows[name])
        assert np.array_equal(first.visible[name], again.visible[name])
    assert not np.array_equal(first.source, other.source)


def test_somebody_elses_face_lies_where_the_result_will(studio: Studio) -> None:
    for seed in range(3):
        sample = studio.sample_tuple(np.random.default_rng(seed), False, 32)
        places = framing(sample.landmarks)
        driver, pose, both = places[1], places[2], places[4]
        assert driver == pytest.approx(both, abs=1e-4)
        # The steady landmarks hardly know the expression.
        assert pose == pytest.approx(both, abs=0.03)


def test_framing_against_hand_computed_values() -> None:
    marks = np.full((2, 68, 2), 9.0, np.float32)
    marks[:, STEADY] = (0.25, -0.5)
    marks[1, STEADY[0]] = (0.25 + 1.3, -0.5)  # one of 13: the centre moves by 0.1
    spread = np.sqrt((1.2**2 + 12 * 0.1**2) / 13)
    assert framing(marks) == pytest.approx(np.array([[0.0, 0.25, -0.5], [spread, 0.35, -0.5]]), abs=1e-6)


def test_pose_and_expression_are_exchanged_apart() -> None:
    first = HeadParams(yaw=10, pitch=-3, roll=1, scale=1.1, shift_x=0.01, expression=(0.2, 0.0), gaze_yaw=4)
    second = HeadParams(yaw=-7, pitch=2, roll=5, scale=0.9, shift_y=0.02, expression=(0.0, 0.7), gaze_pitch=-3)
    mixed = first.with_pose_of(second)
    assert np.array_equal(mixed.pose_vector(), second.pose_vector())
    assert np.array_equal(mixed.expression_vector(), first.expression_vector())
    assert first.with_expression_of(second) == second.with_pose_of(first)


def test_a_pose_edit_keeps_the_expression_in_the_mesh(studio: Studio) -> None:
    scene = studio.sample_scene(np.random.default_rng(0))
    params = HeadParams(expression=studio.expression({"jawOpen": 0.8}))
    still, turned = (render(scene, replace(params, yaw=yaw), 32) for yaw in (0.0, 25.0))
    rigid = np.nonzero(scene.person.head_weight == 1.0)[0][::7]
    turn = geometry.rotation(25, 0, 0) @ geometry.rotation(0, 0, 0).T
    expected = (still.camera[rigid] - geometry.NECK_PIVOT) @ turn.T + geometry.NECK_PIVOT
    assert np.allclose(turned.camera[rigid], expected, atol=1e-3)
    shoulders = scene.person.head_weight == 0.0
    assert np.abs(turned.camera - still.camera)[shoulders].max() < 0.5 * np.abs(turned.camera - still.camera).max()


def test_sampled_poses_stay_within_limits(studio: Studio) -> None:
    rng = np.random.default_rng(0)
    poses = np.stack([studio.sample_params(rng).pose_vector() for _ in range(300)])
    assert (np.abs(poses[:, :3]) <= np.array(POSE_LIMIT) + 1e-4).all()
    assert 10.0 < poses[:, 0].std() < 20.0
    assert (poses[:, 3] > 0.8).all() and (poses[:, 3] < 1.2).all()


def test_flow_carries_the_source_to_the_target(studio: Studio) -> None:
    scene = replace(studio.sample_scene(np.random.default_rng(8)), post=Post())
    # Light from all sides: brightness then sticks to the surface as the texture does.
    light = scene.light._replace(
        colours=np.zeros_like(scene.light.colours), ground=scene.light.sky, side=np.zeros(3, np.float32)
    )
    scene = replace(scene, light=light)
    first = HeadParams(yaw=-8, expression=studio.expression({"jawOpen": 0.1}))
    second = HeadParams(
        yaw=14, pitch=5, roll=6, scale=1.08, shift_x=0.04, expression=studio.expression({"jawOpen": 0.9})
    )
    source, target = render(scene, first, 96, 3), render(scene, second, 96, 3)
    flow, visible = correspondence(scene, target, source)
    sure = visible > 0.99
    assert sure.mean() > 0.6
    moved = warp(source.linear, flow)
    peak = target.linear.max()
    error = ((moved - target.linear)[sure] ** 2).mean()
    unmoved = ((source.linear - target.linear)[sure] ** 2).mean()
    assert 10 * np.log10(peak**2 / error) > 28.0
    assert error < unmoved / 5


def test_flow_to_itself_is_the_identity(studio: Studio) -> None:
    scene = studio.sample_scene(np.random.default_rng(1))
    picture = render(scene, HeadParams(yaw=9, scale=0.95, shift_y=0.03), 48)
    flow, visible = correspondence(scene, picture, picture)
    centres = (2 * np.arange(48) + 1) / 48 - 1
    assert np.abs(flow[..., 0] - centres[None]).max() < 1e-3
    assert np.abs(flow[..., 1] - centres[:, None]).max() < 1e-3
    assert visible.mean() > 0.97


def test_what_turns_away_is_hidden(studio: Studio) -> None:
    scene = studio.sample_scene(np.random.default_rng(2))
    left, right = render(scene, HeadParams(yaw=-38), 64), render(scene, HeadParams(yaw=38), 64)
    _, visible = correspondence(scene, right, left)
    assert visible[(right.triangle >= 0)[::2, ::2]].mean() < 0.95


def test_only_source_and_driver_carry_noise_when_targets_are_clean(studio: Studio) -> None:
    rng = np.random.default_rng(8)
    scene = studio.sample_scene(rng, post=Post(noise=0.05))
    from dpe_model.training.synthetic import develop

    picture = render(scene, HeadParams(), 64).linear
    noisy, clean = develop(picture, scene.post, rng), develop(picture, scene.post, rng, degrade=False)
    assert np.array_equal(clean, develop(picture, replace(scene.post, noise=0.0)))
    assert 5.0 < (noisy.astype(float) - clean).std() < 20.0


def test_shards_hold_the_samples_and_go_on_after_an_interruption(head: Path, studio: Studio, tmp_path: Path) -> None:
    options = shards.SampleOptions(size=32, seed=2)
    paths = shards.render_shards(head, tmp_path, 5, options, shard_length=2)
    assert [len(np.load(path, allow_pickle=False)) for path in paths] == [2, 2, 1]
    before = [path.read_bytes() for path in paths]
    untouched = paths[0].stat().st_mtime_ns
    paths[1].unlink()
    shards.render_shards(head, tmp_path, 6, options, shard_length=2)
    assert paths[0].stat().st_mtime_ns == untouched
    assert paths[1].read_bytes() == before[1]
    data = shards.ShardDataset(tmp_path)
    assert len(data) == 6
    direct = shards.draw(studio, options, 3)
    assert np.array_equal(data[3]["images"].numpy(), direct.images())
    assert np.array_equal(data[3]["driver_pose"].numpy(), direct.driver_params.pose_vector())
    assert data[3]["flows"].shape == (3, 16, 16, 2) and data[3]["visible"].max() <= 1.0
    with pytest.raises(IndexError):
        data[6]


def test_the_command_renders_what_is_asked_for(head: Path, tmp_path: Path) -> None:
    asked = ["--size", "32", "--count", "3", "--seed", "4", "--same-person", "1", "--flow-stride", "1"]
    shards.main(["--head", str(head), "--output", str(tmp_path), "--workers", "1", *asked])
    data = shards.ShardDataset(tmp_path)
    assert len(data) == 3 and all(data[i]["same_person"] for i in range(3))
    assert data[0]["images"].shape == (5, 32, 32, 3) and data[0]["flows"].shape == (3, 32, 32, 2)
    assert data.manifest["options"]["seed"] == 4


def test_rendering_processes_end_with_the_one_that_started_them(head: Path, tmp_path: Path) -> None:
    script = (
        "import sys; from dpe_model.training.synthetic.shards import SampleOptions, render_shards\n"
        "render_shards(sys.argv[1], sys.argv[2], 100_000, SampleOptions(size=32), workers=2, shard_length=4)"
    )
    command = [sys.executable, "-c", script, str(head), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        while not list(tmp_path.glob("shard-*")):
            assert process.poll() is None
            time.sleep(0.1)
        process.kill()
        process.communicate(timeout=60)  # until nobody holds the other end any more
    assert not list(tmp_path.glob("*.partial.*"))


def test_shards_of_other_settings_are_refused(head: Path, tmp_path: Path) -> None:
    shards.render_shards(head, tmp_path, 1, shards.SampleOptions(size=32), shard_length=1)
    with pytest.raises(shards.ShardError, match="other settings"):
        shards.render_shards(head, tmp_path, 1, shards.SampleOptions(size=64), shard_length=1)
    with pytest.raises(shards.ShardError, match="found no"):
        shards.ShardDataset(tmp_path / "nothing")
    with pytest.raises(shards.ShardError, match="multiple"):
        shards.SampleOptions(size=33)


def test_a_run_refuses_the_same_samples_twice(head: Path, tmp_path: Path) -> None:
    for folder, seed in (("a", 0), ("b", 1), ("c", 0)):
        shards.render_shards(head, tmp_path / folder, 1, shards.SampleOptions(size=32, seed=seed), shard_length=1)
    a, b, c = (Source("synthetic", str(tmp_path / folder)) for folder in "abc")
    assert StepData((a, b), 32, 1, 0, Share())[0].source.shape == (1, 3, 32, 32)
    with pytest.raises(DataError, match="hold the same samples"):
        StepData((a, b, c), 32, 1, 0, Share())


def test_heads_rendered_on_the_fly_are_the_studios(head: Path, studio: Studio) -> None:
    batch = RenderReader(str(head), render_size=32).sample(np.random.default_rng(5), 32)
    rng = np.random.default_rng(5)
    direct = studio.sample_tuple(rng, same_person=bool(rng.random() < 0.4), size=32)
    pictures = torch.cat([getattr(batch, name) for name in IMAGE_NAMES])
    assert torch.equal(pictures, to_network(torch.from_numpy(direct.images()), 32))
    assert batch.pose_flow is not None and batch.pose_visible is not None
    assert np.array_equal(batch.pose_flow[0].permute(1, 2, 0), direct.flows["pose_target"])
    assert np.array_equal(batch.pose_visible[0, 0], direct.visible["pose_target"])


def test_ranks_and_workers_render_what_one_process_renders(head: Path) -> None:
    sources = (Source("render", str(head)),)
    whole = StepData(sources, 32, 2, 7, Share())
    for rank in range(2):
        part = StepData(sources, 32, 2, 7, Share(rank, 2))
        assert torch.equal(part[3].source, whole[3].source[rank::2])
    for step, batch in zip((3, 4), step_batches(whole, 3, 5, 2), strict=True):
        assert torch.equal(batch.source, whole[step].source) and torch.equal(batch.exp_flow, whole[step].exp_flow)


def test_workers_leave_the_run_s_random_numbers_alone(head: Path) -> None:
    """A resumed run starts its workers once more; what is drawn for a growth afterwards may not change with that."""
    before = torch.get_rng_state()
    next(step_batches(StepData((Source("render", str(head)),), 32, 1, 7, Share()), 0, 1, 1))
    assert torch.equal(torch.get_rng_state(), before)


def test_how_many_drive_themselves_is_of_the_joint_batch(head: Path) -> None:
    sources = (Source("render", str(head)),)
    assert StepData(sources, 32, 4, 7, Share())[3].own is None
    whole = StepData(sources, 32, 4, 7, Share(), 0.25)[3].own
    assert whole.tolist() == [True, False, False, False]
    for rank in range(2):
        assert torch.equal(StepData(sources, 32, 4, 7, Share(rank, 2), 0.25)[3].own, whole[rank::2])


def test_pooled_flow_is_the_mean_and_hides_edges() -> None:
    size = 8
    x = (2 * np.arange(size, dtype=np.float32) + 1) / size - 1
    flow = np.stack(np.meshgrid(x, x), -1)
    visible = np.ones((size, size), np.float32)
    pooled, share = shards.pool_flow(flow, visible, 2)
    centres = (2 * np.arange(4) + 1) / 4 - 1
    assert np.allclose(pooled[0, :, 0], centres) and (share == 1).all()
    flow[0, 0] += 3.0
    _, share = shards.pool_flow(flow, visible, 2)
    assert share[0, 0] == 0.0 and share[1:].min() == 1.0


@pytest.mark.parametrize("field", ["neu", "exs", "lm"])
def test_a_head_without_a_field_is_named(tmp_path: Path, field: str) -> None:
    fields = head_fields()
    del fields[field]
    np.savez(tmp_path / "head.npz", **fields)
    with pytest.raises(HeadModelError, match=f"missing: {field}"):
        ICTFaceKit.load(tmp_path / "head.npz")


def test_unusable_heads_are_refused(tmp_path: Path, studio: Studio) -> None:
    with pytest.raises(HeadModelError, match="no file"):
        ICTFaceKit.load(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(HeadModelError, match="could not read"):
        ICTFaceKit.load(tmp_path / "text.npz")
    fields = head_fields()
    fields["exs"] = fields["exs"][:, :-1]
    np.savez(tmp_path / "short.npz", **fields)
    with pytest.raises(HeadModelError, match="exs of shape"):
        ICTFaceKit.load(tmp_path / "short.npz")
    with pytest.raises(HeadModelError, match="jawOpne"):
        studio.expression({"jawOpne": 1.0})


def test_missing_numba_is_said_plainly() -> None:
    code = "import sys; sys.modules['numba'] = None; import dpe_model.training.synthetic"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "pip install numba" in done.stderr
