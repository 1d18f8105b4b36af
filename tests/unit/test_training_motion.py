"""Motion stages: the optimiser they need, the regression heads, and how motion editing starts out from them."""

import dataclasses
import itertools
import json
import os
import signal

import numpy as np
import pytest
import torch
from torch import nn

from dpe_model.errors import DPEError
from dpe_model.network import DPENetwork, NetworkConfig
from dpe_model.training import optimisers
from dpe_model.training.config import Optimiser, config_from
from dpe_model.training.data import DataError, PairBatch, SupervisedBatch
from dpe_model.training.data.rendered import recoloured
from dpe_model.training.optimisers import Muon, is_matrix, make_optimiser, orthogonalised
from dpe_model.training.regression import ParameterHeads, start_motion
from dpe_model.training.trainer import Trainer

CONFIG = NetworkConfig(16, 24, 12, {4: 8, 8: 8, 16: 8})


@pytest.mark.parametrize("emulated", [False, True])
def test_orthogonalised_updates_have_singular_values_about_one(monkeypatch, emulated):
    dtype = torch.float32 if emulated else torch.bfloat16
    monkeypatch.setattr(optimisers, "emulates_bfloat16", lambda kind: emulated)
    assert orthogonalised(torch.randn(12, 12)).dtype == dtype
    for shape in ((12, 40), (40, 12)):
        values = torch.linalg.svdvals(orthogonalised(torch.randn(shape)).float())
        assert values.min() > 0.5 and values.max() < 1.5


def test_muon_takes_matrices_and_leaves_the_rest_to_adam():
    layer, head, bias = nn.Linear(16, 32).weight, torch.zeros(1, 3, 16, 1, 1), torch.zeros(32)
    assert is_matrix(layer) and is_matrix(torch.zeros(1, 16, 8, 3, 3))
    assert not is_matrix(head) and not is_matrix(bias)


def test_an_update_of_muon_has_the_rates_root_mean_square():
    weight = nn.Parameter(torch.zeros(16, 64))
    weight.grad = torch.randn(16, 64)
    Muon([weight], 0.01, 0.95, (0.9, 0.99)).step()
    assert weight.detach().square().mean().sqrt().item() == pytest.approx(0.01, rel=0.3)


def test_muons_adam_is_adam():
    start = torch.randn(5)
    ours, theirs = (nn.Parameter(start.clone()) for _ in range(2))
    muon, adam = Muon([ours], 0.1, 0.95, (0.9, 0.99)), torch.optim.Adam([theirs], lr=0.1, betas=(0.9, 0.99))
    for _ in range(4):
        gradient = torch.randn(5)
        for parameter, optimiser in ((ours, muon), (theirs, adam)):
            parameter.grad = gradient.clone()
            optimiser.step()
    assert torch.allclose(ours, theirs, atol=1e-6)


def test_the_configured_optimiser_is_made():
    parameters = [nn.Parameter(torch.zeros(16, 16))]
    assert isinstance(make_optimiser(parameters, Optimiser(), 4), torch.optim.Adam)
    made = make_optimiser(parameters, Optimiser(kind="muon", lr=0.01), 4)
    assert isinstance(made, Muon) and made.param_groups[0]["lr"] == pytest.approx(0.008)


def test_motion_editing_starts_out_with_pose_and_expression_apart():
    torch.manual_seed(0)
    network, heads = DPENetwork(CONFIG), ParameterHeads(24, 4, 10, 6)
    nn.init.normal_(heads.picture.bias)
    w = torch.randn(300, 24) @ torch.randn(24, 24)
    start_motion(network, heads, w, "pose")
    with torch.no_grad():
        pose, expression, _ = heads.read(w)
        alpha = network.motion(w)
        codes = {branch: network.branch_code(alpha, branch) for branch in ("pose", "exp")}
        # Eight of twelve components are left to the ten expression numbers: nearly all of their variance.
        lost = (heads.expression(codes["exp"]) - expression).var(0).sum() / expression.var(0).sum()
        assert torch.allclose(heads.pose(codes["pose"]), pose, atol=2e-3)
        assert lost < 0.1
        # Each code hears its own part of alpha alone.
        other = alpha.clone()
        other[:, 4:] += 1.0
        assert torch.allclose(network.branch_code(other, "pose"), codes["pose"], atol=1e-4)
        other = alpha.clone()
        other[:, :4] += 1.0
        assert torch.allclose(network.branch_code(other, "exp"), codes["exp"], atol=1e-4)


def test_motion_editing_asks_for_room_and_for_something_learned():
    network, heads = DPENetwork(CONFIG), ParameterHeads(24, 12, 10, 6)
    with pytest.raises(DPEError, match="more than 12 motion directions"):
        start_motion(network, heads, torch.randn(50, 24), "pose")
    heads = ParameterHeads(24, 4, 10, 6)
    nn.init.zeros_(heads.picture.weight)
    with pytest.raises(DPEError, match="same expression"):
        start_motion(network, heads, torch.randn(50, 24), "pose")


def test_heads_are_fitted_to_what_codes_tell():
    torch.manual_seed(0)
    heads = ParameterHeads(24, 4, 10, 6)
    w, pose, expression = (torch.randn(500, 24) for _ in range(3))
    known = w @ torch.randn(24, 20) + torch.randn(20)
    known[:, :4], known[:, 4:14] = pose[:, :4] + 2.0, expression[:, 3:13] - 1.0
    heads.fit(w, pose, expression, known)
    with torch.no_grad():
        assert torch.allclose(heads.read(w)[2], known[:, 14:], atol=0.05)
        assert torch.allclose(heads.pose(pose), known[:, :4], atol=0.05)
        assert torch.allclose(heads.expression(expression), known[:, 4:14], atol=0.05)


class Blobs:
    """Stands in for a renderer: a bright blob whose place is the landmarks, the pose and the expression."""

    def sample(self, rng, size):
        axis = torch.linspace(-1, 1, size)
        places = torch.from_numpy(rng.uniform(-0.6, 0.6, (5, 2)).astype(np.float32))
        pictures = [
            torch.exp(-((axis[None] - x) ** 2 + (axis[:, None] - y) ** 2) / 0.1).expand(1, 3, size, size) * 2 - 1
            for x, y in places
        ]
        poses, shapes = [p.repeat(3)[None] for p in places[:2]], [p.repeat(103)[None] for p in places[:2]]
        flow, seen = torch.zeros(1, 2, 8, 8), torch.ones(1, 1, 8, 8)
        marks = places.repeat(1, 68)[None]
        return SupervisedBatch(*pictures, *poses, *shapes, flow, flow, flow, seen, seen, seen, marks)


def run(tmp_path, monkeypatch, **changes):
    monkeypatch.setattr("dpe_model.training.data.step_data.open_source", lambda source: Blobs())
    config = {
        "out": str(tmp_path), "preset": "rendered", "ema": 0.5,
        "network": {"style_dim": 24, "motion_dim": 12, "channels": {"4": 8, "8": 8, "16": 8}},
        "sources": [{"kind": "synthetic", "path": "heads"}],
        "optimiser": {"kind": "muon", "lr": 0.02, "warmup": 0},
        "stages": [{"size": 16, "steps": 30, "batch": 8, "phase": "motion"}, {"size": 16, "steps": 2, "batch": 4}],
        "output": {"log_every": 1, "tensorboard": False, "progress": False, "sheet_every": 0},
    } | changes  # fmt: skip
    return Trainer(config_from(config))


def test_a_motion_stage_learns_landmarks_and_the_next_starts_from_it(tmp_path, monkeypatch):
    trainer = run(tmp_path, monkeypatch)
    first = trainer.network.enc.net_app.convs[0].conv.weight.detach().clone()
    trainer.run()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines[29]["landmarks"] < 0.5 * lines[0]["landmarks"]
    assert "landmarks" not in lines[30] and "exp_flow" in lines[30]
    # Started from the heads, the code knows the pose at once.
    assert lines[30]["pose_parameters"] < 0.5 * 0.5 * torch.tensor(0.6 / 3**0.5).item()
    assert trainer.model.phase == "edit"
    # The colours' way through the encoder was left alone in the motion stage, and is trained afterwards.
    assert trainer.network.enc.net_app.convs[0].conv.weight.requires_grad
    assert (trainer.network.enc.net_app.convs[0].conv.weight - first).abs().max() < 0.2


def test_a_warm_start_goes_on_reading_where_the_trained_network_was(tmp_path, monkeypatch):
    run(tmp_path / "a", monkeypatch).run()
    trained = tmp_path / "a" / "checkpoint-0000032.safetensors"
    stages, weights = [{"size": 16, "steps": 1, "batch": 8}], {"picture": 1.0, "self_fraction": 0.0}
    first = {}
    for fitted in (True, False):
        trainer = run(tmp_path / str(fitted), monkeypatch, stages=stages, warm_start=str(trained), supervised=weights)
        if not fitted:
            trainer._fit_heads = lambda: None
        trainer.run()
        first[fitted] = json.loads((tmp_path / str(fitted) / "metrics.jsonl").read_text().splitlines()[0])
    for term in ("picture", "pose_parameters", "expression_parameters"):
        assert first[True][term] < 0.5 * first[False][term], term


def test_clips_alone_leave_the_heads_of_a_warm_start_alone(tmp_path, monkeypatch):
    sources = [{"kind": "clips", "path": "clips"}]
    trainer = run(tmp_path, monkeypatch, sources=sources, stages=[{"size": 16, "steps": 1, "batch": 4}])
    before = trainer.heads.picture.weight.detach().clone()
    trainer.config = dataclasses.replace(trainer.config, warm_start="model.safetensors")
    trainer._start_heads()
    assert torch.equal(trainer.heads.picture.weight, before)


def test_a_motion_stage_takes_rendered_heads_alone(tmp_path, monkeypatch):
    trainer = run(tmp_path, monkeypatch, sources=[{"kind": "clips", "path": "c"}, {"kind": "synthetic", "path": "h"}])
    with pytest.raises(DataError, match="rendered heads"):
        trainer.run()


def interrupted_after(step, count):
    """The step function, with an interruption while step number `count` runs."""
    numbers = itertools.count(1)

    def counted(batch):
        if next(numbers) == count:
            os.kill(os.getpid(), signal.SIGINT)
        return step(batch)

    return counted


def test_a_motion_stage_resumes_bit_for_bit(tmp_path, monkeypatch):
    stages = [{"size": 16, "steps": 4, "batch": 4, "phase": "motion"}, {"size": 16, "steps": 2, "batch": 4}]
    straight = run(tmp_path / "a", monkeypatch, stages=stages)
    straight.run()
    output = {"log_every": 0, "tensorboard": False, "progress": False, "sheet_every": 0}
    for cut in (3, 5):
        folder = tmp_path / f"b{cut}"
        halted = run(folder, monkeypatch, stages=stages, output=output)
        halted.train_step = interrupted_after(halted.train_step, cut)
        assert halted.run().reason == "interrupted" and halted.step == cut
        resumed = Trainer(halted.config, resume=folder)
        resumed.run()
        for name, value in straight.network.state_dict().items():
            assert torch.equal(value, resumed.network.state_dict()[name]), name


def test_a_motion_stage_needs_landmarks(tmp_path, monkeypatch):
    trainer = run(tmp_path, monkeypatch)
    with pytest.raises(DataError, match="landmarks"):
        trainer.model.read_motion(PairBatch(torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 16, 16)))


def test_colours_change_alike_in_all_pictures_but_the_drivers():
    batch = Blobs().sample(np.random.default_rng(0), 16)
    same = SupervisedBatch(*([batch.source] * 5), *(getattr(batch, n) for n in (
        "source_pose", "driver_pose", "source_expression", "driver_expression")))  # fmt: skip
    changed = recoloured(same, np.random.default_rng(1), 0.3)
    assert torch.equal(changed.source, changed.exp_target) and torch.equal(changed.source, changed.pose_target)
    assert not torch.equal(changed.source, changed.driver) and not torch.equal(changed.source, same.source)
    assert recoloured(same, np.random.default_rng(1), 0.0) is same


class Shifts(Blobs):
    """Blobs whose pose edit moves the picture by a quarter to the right; the expression edit leaves it alone."""

    def sample(self, rng, size):
        batch = super().sample(rng, size)
        axis = (torch.arange(8) * 2 + 1) / 8 - 1
        still = torch.stack(torch.meshgrid(axis, axis, indexing="xy"))[None]
        moved = still - torch.tensor([0.25, 0.0]).view(1, 2, 1, 1)
        return dataclasses.replace(batch, pose_flow=moved, exp_flow=still)


def test_a_flow_stage_learns_where_to_fetch_from_and_paints_nothing(tmp_path, monkeypatch):
    trainer = run(tmp_path, monkeypatch, stages=[{"size": 16, "steps": 60, "batch": 4, "phase": "flow"}])
    monkeypatch.setattr("dpe_model.training.data.step_data.open_source", lambda source: Shifts())
    monkeypatch.setattr("dpe_model.training.supervision.FLOW_SIZE", 8)
    before = {n: p.detach().clone() for n, p in trainer.network.named_parameters()}
    trainer.run()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["pose_flow"] < 0.5 * lines[0]["pose_flow"]
    assert not any("l1" in name or "edge" in name for name in lines[0])
    # Levels above and RGB heads are left as they were, and so is the colours' way through the encoder.
    for name in ("dec_pose.convs.3.conv.weight", "dec_pose.to_rgbs.0.conv.0.weight", "enc.net_app.convs.0.0.weight"):
        assert torch.equal(before[name], dict(trainer.network.named_parameters())[name]), name


def test_a_flow_stage_needs_flows(tmp_path, monkeypatch):
    trainer = run(tmp_path, monkeypatch)
    with pytest.raises(DataError, match="flows"):
        trainer.model.find_flow(PairBatch(torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 16, 16)))
