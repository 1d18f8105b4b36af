"""A stage of twins: the encoder learns to tell of pictures what its teacher tells of their twins, and nothing else."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from dpe_model.checkpoint import BranchRoles, save_checkpoint
from dpe_model.network import BRANCHES, NetworkConfig
from dpe_model.training.config import ConfigError, TwinWeights, config_from
from dpe_model.training.data import EXPRESSION_DIM, LANDMARK_DIM, DataError, PairBatch, TwinBatch
from dpe_model.training.regression import ParameterHeads
from dpe_model.training.trainer import Trainer
from dpe_model.training.twins import KEPT_LAYERS, TwinTeacher

from .tiny import tiny_network

CONFIG = NetworkConfig(16, 8, 3, {4: 8, 8: 8, 16: 8})
ROLES = BranchRoles(expression="exp", pose="pose")


class Blobs:
    """Stands in for a renderer: a blob whose place is the motion; of twins one lies before a bright band."""

    def sample(self, rng: np.random.Generator, size: int) -> TwinBatch:
        axis = torch.linspace(-1, 1, size)
        place = torch.from_numpy(rng.uniform(-0.6, 0.6, 2).astype(np.float32))
        blob = torch.exp(-((axis - place[0]) ** 2 + (axis[:, None] - place[1]) ** 2) / 0.1)
        plain = (2 * blob - 1).expand(1, 3, size, size).clone()
        picture = plain.clone()
        picture[:, :, size // 2 :] += float(rng.uniform(0.5, 1.0))
        return TwinBatch(
            picture,
            plain,
            place.repeat(3)[None],
            place.repeat(EXPRESSION_DIM // 2)[None],
            place.repeat(LANDMARK_DIM // 2)[None],
        )


@pytest.fixture
def start(tmp_path: Path) -> Path:
    save_checkpoint(tmp_path / "start.safetensors", tiny_network(config=CONFIG), ROLES)
    return tmp_path / "start.safetensors"


@pytest.fixture
def values(start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict:
    monkeypatch.setattr("dpe_model.training.data.step_data.open_source", lambda source: Blobs())
    monkeypatch.setattr("dpe_model.training.trainer.SAMPLED_CODES", 200)
    return {
        "out": str(tmp_path / "run"),
        "preset": "rendered",
        "warm_start": str(start),
        "network": {
            "style_dim": CONFIG.style_dim,
            "motion_dim": CONFIG.motion_dim,
            "channels": {str(r): c for r, c in CONFIG.channels.items()},
        },
        "stages": [{"size": 16, "steps": 60, "batch": 9, "phase": "twins"}],
        "sources": [{"kind": "twins", "path": "head.npz"}],
        "optimiser": {"lr": 0.01, "warmup": 0, "decay": 0.0},
        "supervised": {"perceptual": 0.0},
        "ema": 0.0,
        "output": {"log_every": 1, "save_every": 0, "sheet_every": 0, "tensorboard": False, "progress": False},
    }


def teacher() -> TwinTeacher:
    made = TwinTeacher(tiny_network(config=CONFIG), TwinWeights())
    made.measure(torch.randn(300, CONFIG.style_dim))
    return made


def batch(count: int = 6) -> TwinBatch:
    rng = np.random.default_rng(3)
    return TwinBatch.stack([Blobs().sample(rng, CONFIG.size) for _ in range(count)])


def metrics(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_codes_are_measured_in_their_own_spread() -> None:
    made, w = teacher(), torch.randn(2000, CONFIG.style_dim)
    made.measure(w)
    for branch in BRANCHES:
        codes = made.teacher.branch_code(made.teacher.motion(w), branch) @ made.get_buffer(branch)
        spread = codes.std(0)
        told = spread > 0
        assert told.any() and spread[told] == pytest.approx(torch.ones(int(told.sum())).numpy(), rel=0.01)
    assert float(made.get_buffer("variance")) == pytest.approx(float(w.var(0).sum()), rel=1e-4)


def test_a_code_takes_another_motion_and_keeps_the_rest() -> None:
    made, w, alpha = teacher(), torch.randn(5, CONFIG.style_dim), torch.randn(5, CONFIG.motion_dim)
    moved = made.with_motion(w, alpha)
    assert torch.allclose(made.teacher.motion(moved), alpha, atol=1e-4)
    # What changed lies in as many directions as a motion has; across them nothing does.
    _, _, across = torch.linalg.svd(made.get_buffer("back"))
    assert torch.allclose((moved - w) @ across[CONFIG.motion_dim :].T, torch.zeros(1), atol=1e-4)
    assert torch.allclose(made.with_motion(w, made.teacher.motion(w)), w, atol=1e-5)


def test_a_teacher_agrees_with_itself_where_twins_are_one_picture() -> None:
    made, heads = teacher(), ParameterHeads(CONFIG.style_dim)
    same = replace(batch(), picture=batch().plain)
    terms = made.losses(copy.deepcopy(made.teacher), heads, same, "exp")
    for name in ("pose_code", "exp_code", "w", "features"):
        assert float(terms[name]) == pytest.approx(0.0, abs=1e-6)
    apart = made.losses(copy.deepcopy(made.teacher), heads, batch(), "exp")
    assert float(apart["exp_code"]) > 1e-4 and float(apart["w"]) > 1e-4
    # The features are asked to stay the picture's own.
    assert float(apart["features"]) == pytest.approx(0.0, abs=1e-6)


def test_the_encoder_comes_to_tell_of_pictures_what_was_told_of_their_twins(values: dict, start: Path) -> None:
    trainer = Trainer(config_from(values))
    trainer.run()
    before, after = load_file(start), load_file(next(trainer.folder.glob("checkpoint-*.safetensors")))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    taught = [f"enc.net_app.convs.{n}." for n in range(KEPT_LAYERS, len(trainer.network.enc.net_app.convs))]
    assert changed and all(name.startswith(tuple(taught)) for name in changed)
    found = metrics(trainer.folder)
    first, last = (np.mean([m["exp_code"] + m["pose_code"] for m in part]) for part in (found[:5], found[-5:]))
    assert last < 0.5 * first


def test_a_run_of_twins_goes_on_bit_for_bit(values: dict, tmp_path: Path) -> None:
    def run(name: str, steps: int, resume: Path | None = None) -> dict[str, torch.Tensor]:
        folder = tmp_path / name
        stage = {**values["stages"][0], "steps": steps}
        Trainer(config_from({**values, "out": str(folder), "stages": [stage]}), resume).run()
        return load_file(folder / f"checkpoint-{steps:07d}.safetensors")

    straight = run("straight", 4)
    run("sliced", 2)
    again = run("sliced", 4, tmp_path / "sliced")
    assert all(torch.equal(straight[name], again[name]) for name in straight)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"warm_start": ""}, "warm_start: expected the checkpoint"),
        ({"sources": [{"kind": "twins"}, {"kind": "clips"}]}, "sources of kind twins alone"),
        ({"sources": [{"kind": "clips"}]}, "sources of kind twins alone"),
        ({"stages": [{"size": 16, "steps": 1, "batch": 2}]}, "stages of phase twins"),
        ({"stages": [{"size": 16, "steps": 1, "batch": 2, "phase": "twins"}] * 2}, "one stage, got 2"),
    ],
)
def test_a_run_of_twins_is_of_twins_alone(values: dict, changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config_from({**values, **changes})


def test_a_start_without_branches_teaches_nothing(values: dict, tmp_path: Path) -> None:
    network = tiny_network(config=CONFIG)
    lia = {k: v for k, v in network.state_dict().items() if k.startswith("enc.net_app.")}
    lia |= {k.replace("mlp.", "enc.fc."): v for k, v in network.state_dict().items() if k.startswith("mlp.")}
    lia["dec.direction.weight"] = network.state_dict()["dir.weight"]
    torch.save({"gen": lia}, tmp_path / "vox.pt")
    with pytest.raises(ConfigError, match="warm_start: expected a DPE checkpoint"):
        Trainer(config_from({**values, "warm_start": str(tmp_path / "vox.pt")}))


def test_other_pictures_are_refused(values: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer(config_from(values))
    with pytest.raises(DataError, match="sources of kind twins"):
        trainer.model(PairBatch(torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 16, 16)), 0, None)
