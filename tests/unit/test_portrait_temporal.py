from __future__ import annotations

import numpy as np
import pytest
import torch

from dpe_model.portrait.temporal import RunningMap, RunningMean, RunningPeak, SceneWatch, similarity


def test_a_mean_follows_and_forgets() -> None:
    mean = RunningMean(4.0)
    assert mean.update(torch.tensor(1.0)) == 1.0
    values = [float(mean.update(torch.tensor(0.0))) for _ in range(8)]
    assert values[3] == pytest.approx(np.exp(-1.0))
    assert values == sorted(values, reverse=True)
    mean.reset()
    assert mean.update(torch.tensor(3.0)) == 3.0
    assert RunningMean(0.0).update(torch.tensor(2.0)) == 2.0


def test_held_frames_count_for_nothing() -> None:
    mean = RunningMean(4.0)
    assert mean.at(lambda: torch.tensor(5.0), held=True) == 5.0  # nothing else to go by yet
    assert mean.at(lambda: torch.tensor(1.0), held=False) == 1.0
    assert mean.at(lambda: torch.tensor(9.0), held=True) == 1.0
    assert mean.at(lambda: torch.tensor(1.0), held=False) == 1.0


def test_a_peak_rises_at_once_and_falls_slowly() -> None:
    peak = RunningPeak(3.0)
    values = [float(peak.update(torch.tensor(x))) for x in (0.0, 1.0, 0.0, 0.0)]
    assert values[:2] == [0.0, 1.0]
    assert values[2] == pytest.approx(np.exp(-1 / 3))
    assert values[3] < values[2]


def test_a_map_moves_along_with_its_face() -> None:
    marks = np.array([[0.3, 0.3], [0.5, 0.3], [0.4, 0.4], [0.32, 0.5], [0.48, 0.5]])
    first, second = torch.zeros(64, 64), torch.zeros(64, 64)
    first[20:40, 20:40] = 1.0
    second[24:44, 28:48] = 1.0
    state = RunningMap(10.0)
    state.follow(first, marks)
    moved = state.follow(second, marks + [8 / 64, 4 / 64])
    assert torch.allclose(moved, second, atol=1e-5)
    still = RunningMap(10.0)
    still.follow(first, None)
    assert still.follow(second, None)[22, 22] > 0.8


def test_similarity_finds_turn_scale_and_shift() -> None:
    points = np.random.default_rng(0).uniform(size=(5, 2))
    c, s = 1.2 * np.cos(0.3), 1.2 * np.sin(0.3)
    matrix = np.array([[c, -s, 0.1], [s, c, -0.2]])
    assert similarity(points, points @ matrix[:, :2].T + matrix[:, 2]) == pytest.approx(matrix)
    assert np.isfinite(similarity(np.zeros((5, 2)), np.ones((5, 2)))).all()


def test_cuts_are_told_from_movement() -> None:
    watch = SceneWatch()
    picture = torch.rand(16, 16, 3, generator=torch.Generator().manual_seed(0)) * 0.4
    assert not watch.is_cut(picture)
    assert not watch.is_cut(picture + 0.05)
    assert watch.is_cut(1.0 - picture)
    assert not watch.is_cut(1.0 - picture)
