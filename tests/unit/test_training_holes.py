"""What a generator shows where its mask closes, and how one generator is trained alone."""

import copy
import json

import pytest
import torch

from dpe_model.errors import CheckpointError
from dpe_model.network import DPENetwork, NetworkConfig
from dpe_model.training.config import ConfigError, config_from
from dpe_model.training.data import DataError, PairBatch
from dpe_model.training.growth import start_as_copy
from dpe_model.training.holes import CLOSED, DARK, MOST_OPEN, OPEN, SPILL, closing_loss, darken_holes
from dpe_model.training.supervision import zero_flows

from .test_training_motion import run

CONFIG = NetworkConfig(16, 8, 4, {4: 8, 8: 8, 16: 8})


def copying(mask: float, config: NetworkConfig = CONFIG) -> DPENetwork:
    """A network that hands its source through masks whose logits are `mask`."""
    torch.manual_seed(0)
    network = DPENetwork(config)
    zero_flows(network)
    start_as_copy(network)
    set_masks(network, mask)
    return network


def set_masks(network, logit):
    with torch.no_grad():
        for branch in ("pose", "exp"):
            network.generator(branch).to_flows[0].bias[:, 2] = logit


def middle(network, branch, source):
    """The inner pixels of what a network makes of pictures: near the edges blurred maps fade out."""
    with torch.no_grad():
        encoded = network.encode(source)
        return network.render(encoded, network.motion(encoded.w), branch)[..., 6:10, 6:10]


def test_open_masks_show_what_they_did_and_closed_ones_black():
    network, source = copying(40.0), torch.rand(2, 3, 16, 16) * 2 - 1
    before = {branch: middle(network, branch, source) for branch in ("pose", "exp")}
    darken_holes(network, "exp")  # whose masks then let 95 % through, which its colours make up for
    for branch, picture in before.items():
        assert torch.allclose(middle(network, branch, source), picture, atol=1e-3), branch
    set_masks(network, -40.0)
    assert torch.allclose(middle(network, "exp", source), torch.tensor(DARK), atol=1e-3)
    assert torch.allclose(middle(network, "pose", source), torch.tensor(0.0), atol=1e-3)  # as it was: grey


def test_the_encoder_reads_the_same_but_for_what_the_others_do_not_tell():
    network, source = copying(3.0), torch.rand(4, 3, 16, 16) * 2 - 1
    changed = copy.deepcopy(network)
    darken_holes(changed, "exp")
    with torch.no_grad():
        old, new = network.encode(source).w, changed.encode(source).w
    first, was = changed.enc.net_app.convs[0].conv.weight, network.enc.net_app.convs[0].conv.weight
    assert (first.flatten(1) != was.flatten(1)).any(1).sum() == 1  # one channel gave way
    assert (new - old).norm() < 0.15 * (old - old.mean(0)).norm()


def test_masks_can_close_again_and_those_that_could_stay():
    network = copying(3.0)
    with torch.no_grad():
        network.dec_exp.to_flows[1].bias[:, 2] = 20.0
        network.dec_exp.to_flows[1].bias[:, :2] = 0.1
    darken_holes(network, "exp")
    biases = [head.bias.flatten() for head in network.dec_exp.to_flows]
    assert biases[0][2] == 3.0 and biases[1][2] == MOST_OPEN - 3.0
    assert torch.allclose(biases[1][:2], torch.tensor(0.1))


def test_holes_need_a_channel_that_carries_no_colours():
    narrow = copying(3.0, NetworkConfig(16, 8, 4, {4: 8, 8: 8, 16: 6}))
    with pytest.raises(CheckpointError, match="more than 6 channels"):
        darken_holes(narrow, "exp")


@pytest.mark.parametrize("branch", ["pose", "exp"])
def test_a_stage_of_one_branch_changes_its_generator_alone(tmp_path, monkeypatch, branch):
    trainer = run(tmp_path, monkeypatch, stages=[{"size": 16, "steps": 2, "batch": 4, "branch": branch}])
    before = {n: p.detach().clone() for n, p in trainer.model.named_parameters()}
    trainer.run()
    changed = {n for n, p in trainer.model.named_parameters() if not torch.equal(before[n], p)}
    assert changed and all(name.startswith(f"network.dec_{branch}.") for name in changed)
    assert f"network.dec_{branch}.convs.0.conv.weight" in changed


def test_after_a_stage_of_one_branch_everything_is_trained_again(tmp_path, monkeypatch):
    stages = [{"size": 16, "steps": 1, "batch": 4, "branch": "exp"}, {"size": 16, "steps": 1, "batch": 4}]
    trainer = run(tmp_path, monkeypatch, stages=stages)
    trainer.run()
    learning = {n for n, p in trainer.model.named_parameters() if p.requires_grad}
    assert {
        "network.enc.net_app.convs.0.0.weight",
        "network.dec_pose.convs.0.conv.weight",
        "heads.pose.bias",
    } <= learning


def test_dark_holes_come_with_their_stage(tmp_path, monkeypatch):
    stages = [{"size": 16, "steps": 1, "batch": 4}, {"size": 16, "steps": 1, "batch": 4, "dark_holes": True}]
    trainer = run(tmp_path, monkeypatch, stages=stages, pose_branch="exp")
    shown = [trainer.network.dec_pose.to_rgbs[-1].bias.mean().item()]
    trainer.run()
    shown.append(trainer.network.dec_pose.to_rgbs[-1].bias.mean().item())
    assert shown[1] - shown[0] == pytest.approx(DARK, abs=0.1)  # the expression branch is `pose` here


def test_a_stage_of_one_branch_needs_edits_of_rendered_heads(tmp_path, monkeypatch):
    trainer = run(tmp_path, monkeypatch, stages=[{"size": 16, "steps": 1, "batch": 4, "branch": "exp"}])
    with pytest.raises(DataError, match="rendered heads"):
        trainer.model(PairBatch(torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 16, 16)), 0, None)
    with pytest.raises(ConfigError, match="edit stage only"):
        config_from({"stages": [{"size": 16, "phase": "flow", "branch": "exp"}]})


def test_each_mask_is_pushed_to_the_side_that_is_nearer_the_truth():
    """Four quarters: hidden and black, hidden and white, seen and black, and hidden, black and fetched so."""
    truth, source = torch.full((1, 3, 8, 8), -1.0), torch.full((1, 3, 8, 8), 0.5)
    visible = torch.zeros(1, 1, 8, 8)
    truth[..., :4, 4:] = 1.0
    visible[..., 4:, :4] = 1.0
    source[..., 4:, 4:] = -0.95

    def pushed(logit):
        maps = torch.zeros(1, 3, 8, 8)
        maps[:, 2] = logit
        maps.requires_grad_()
        closing_loss(maps, source, truth, visible).backward()
        assert torch.all(maps.grad[:, :2] == 0)
        return maps.grad[0, 2]

    middle = pushed(0.0)
    hole, white, seen, fetched = middle[1:3, 1:3], middle[1:3, 5:7], middle[5:7, 1:3], middle[5:7, 5:7]
    assert torch.all(hole > 0) and torch.all(white < 0) and torch.all(seen == 0) and torch.all(fetched < 0)
    # What a wrong side costs is what counts; spilling over the white costs as much more as it is farther from a hole.
    assert white[0, 0] / hole[0, 0] == pytest.approx(-SPILL * (1.9 - 0.5) / (1.5 - 0.1), rel=1e-4)
    assert torch.all(pushed(CLOSED - 1.0)[1:3, 1:3] == 0)
    assert torch.all(pushed(OPEN + 1.0)[1:3, 5:7] == 0)


def test_what_is_all_but_right_is_left_alone():
    truth, source = torch.full((1, 3, 8, 8), -1.0), torch.full((1, 3, 8, 8), -0.899)
    visible = torch.ones(1, 1, 8, 8)
    visible[..., 2:6, 2:6] = 0.0  # fetching fades out near the edges
    assert closing_loss(torch.zeros(1, 3, 8, 8), source, truth, visible).item() < 0.5


def test_supervision_closes_the_expression_branchs_masks_alone(tmp_path, monkeypatch):
    trainer = run(tmp_path, monkeypatch, stages=[{"size": 16, "steps": 1, "batch": 4}], supervised={"close": 1.0})
    trainer.run()
    line = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])
    assert "exp_close" in line and "pose_close" not in line
