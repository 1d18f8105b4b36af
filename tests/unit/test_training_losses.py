"""Losses, the discriminator and supervision on tiny inputs."""

import argparse
import dataclasses
import io
import math
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save, save_file

from dpe_model.errors import CheckpointError
from dpe_model.network import DPENetwork, NetworkConfig
from dpe_model.network.generator import identity_grid
from dpe_model.training.config import SupervisedWeights
from dpe_model.training.cycle import run_cycle
from dpe_model.training.data import LANDMARK_UNIT, SupervisedBatch, expression_units, shrink_flow
from dpe_model.training.discriminator import Discriminator, minibatch_stddev, stddev_group
from dpe_model.training.growth import grow, grow_discriminator, start_as_copy
from dpe_model.training.landmarks import BROWS, EYES, MOUTH
from dpe_model.training.losses import (
    PerceptualLoss,
    Pyramid,
    discriminator_adversarial,
    edge_l1,
    generator_adversarial,
    gradient_penalty,
    load_perceptual,
    pyramid_l1,
    read_state_dict,
)
from dpe_model.training.reading import encode_frozen, feature_difference, reading_difference, shortfall
from dpe_model.training.start import warm_start
from dpe_model.training.supervision import (
    MASK_OPEN,
    ParameterHeads,
    Supervision,
    flow_loss,
    focus_weight,
    hidden_weight,
    orthogonal_motion,
    region_weight,
    zero_flows,
)

CONFIG = NetworkConfig(16, 8, 4, {4: 8, 8: 8, 16: 8})
WIDTHS = {4: 8, 8: 8, 16: 8, 32: 8}


def images(n=4, size=16, seed=0):
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def still_flow(n, size):
    axis = (torch.arange(size) * 2 + 1) / size - 1
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return torch.stack((x, y))[None].repeat(n, 1, 1, 1)


def fetching(positions, mask=0.0):
    """A level's flow maps [N, 3, r, r] that fetch from these positions [N, 2, r, r]."""
    offset = torch.atanh(positions - identity_grid(positions.shape[-1], positions.device).permute(0, 3, 1, 2))
    return torch.cat((offset, torch.full_like(offset[:, :1], mask)), 1)


def supervised(n=4, size=16):
    pictures = [images(n, size, s) for s in range(5)]
    flow, seen = still_flow(n, size), torch.ones(n, 1, size, size)
    generator = torch.Generator().manual_seed(9)
    pose, expression = torch.randn(2, n, 6, generator=generator), torch.randn(2, n, 5, generator=generator)
    return SupervisedBatch(*pictures, *pose, *expression, flow, flow, flow, seen, seen, seen)


def test_perceptual_loss_is_off_without_a_file_and_says_so(caplog):
    assert load_perceptual("") is None
    assert "VGG19" in caplog.text and "vgg" in caplog.text


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_perceptual_weights_load_from_either_format(tmp_path, suffix):
    state = PerceptualLoss().state_dict()
    path = tmp_path / f"vgg{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(
        {**state, "classifier.0.bias": torch.ones(1)}, path
    )
    loss = load_perceptual(path)
    x = images(1, 128)
    assert float(loss(x, x)) == 0.0
    assert float(loss(x, -x)) > 0.0
    assert not any(p.requires_grad for p in loss.parameters())


def test_perceptual_weights_of_another_network_are_refused(tmp_path):
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="features.0.weight"):
        load_perceptual(tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="missing.pt"):
        load_perceptual(tmp_path / "missing.pt")


def legacy(length):
    """The beginning of a file as PyTorch wrote them before 1.6."""
    buffer = io.BytesIO()
    torch.save({"a": torch.ones(50)}, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()[:length]


def zipped(length):
    buffer = io.BytesIO()
    torch.save({"a": torch.ones(50)}, buffer)
    return buffer.getvalue()[:length]


@pytest.mark.parametrize(
    "name, content",
    [
        ("text.pt", b"no tensors here"),
        ("page.pt", b"hello world\n"),
        ("zip.pt", zipped(-100)),
        ("begun.pt", legacy(18)),
        ("half.pt", legacy(-20)),
        ("list.pt", pickle.dumps([1, 2], 2)),
        ("class.pt", pickle.dumps(NetworkConfig(), 2)),
        ("cut.safetensors", save({"a": torch.ones(50)})[:-4]),
        ("other.safetensors", pickle.dumps({"a": 1}, 2)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_damaged_file_is_one_clear_error(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    for read in (read_state_dict, load_perceptual, lambda path: warm_start(DPENetwork(CONFIG), path)):
        with pytest.raises(CheckpointError, match=f"{name}: expected a file of tensors, could not read it") as raised:
            read(tmp_path / name)
        assert "\n" not in str(raised.value) and "weights_only" not in str(raised.value)


def test_weights_beside_a_command_line_need_a_pytorch_that_can_be_told(tmp_path, monkeypatch):
    torch.save({"gen": {"a": torch.ones(2)}, "args": argparse.Namespace(size=16)}, tmp_path / "lia.pt")
    torch.save({"a": torch.ones(2)}, tmp_path / "plain.pt")
    assert list(read_state_dict(tmp_path / "lia.pt")) == ["gen.a"]
    monkeypatch.delattr(torch.serialization, "safe_globals")
    assert list(read_state_dict(tmp_path / "plain.pt")) == ["a"]
    with pytest.raises(CheckpointError, match=r"lia\.pt.*PyTorch 2\.5"):
        read_state_dict(tmp_path / "lia.pt")


def test_pyramid_keeps_a_constant_picture_away_from_its_edges():
    levels = Pyramid()(torch.full((1, 3, 64, 64), 0.5))
    assert [x.shape[-1] for x in levels] == [64, 32, 16, 8]
    assert levels[1][0, 0, 16, 16].item() == pytest.approx(0.5, abs=1e-6)


def test_adversarial_losses():
    zero = torch.zeros(3, 1)
    assert generator_adversarial(zero).item() == pytest.approx(math.log(2))
    assert discriminator_adversarial(zero, zero).item() == pytest.approx(2 * math.log(2))
    assert generator_adversarial(zero + 5) < generator_adversarial(zero)
    x = torch.ones(2, 3, 4, 4, requires_grad=True)
    assert gradient_penalty((2 * x).sum((1, 2, 3)), x).item() == pytest.approx(4 * 48)


def test_picture_losses_are_zero_only_on_the_target():
    x = images()
    weight = region_weight(x, -x, 4.0)
    assert weight.mean((1, 2, 3)).tolist() == pytest.approx([1.0] * 4)
    for loss in (pyramid_l1, edge_l1):
        assert loss(x, x, weight).item() == 0.0
        assert loss(x, x + 0.1 * images(seed=1), weight).item() > 0.0


def test_region_weight_stands_on_what_changes():
    source, target = torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 16, 16)
    target[..., 8:12, 8:12] = 1.0
    weight = region_weight(source, target, 4.0)
    assert weight[0, 0, 10, 10] > 3 * weight[0, 0, 0, 0]
    assert torch.equal(region_weight(source, target, 0.0), torch.ones(1, 1, 16, 16))


def test_stddev_groups_of_a_joint_batch_are_those_of_its_strided_parts():
    x = torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    joint = minibatch_stddev(x)
    for rank in range(2):
        assert torch.allclose(minibatch_stddev(x[rank::2]), joint[rank::2])
    assert [stddev_group(n) for n in (1, 2, 4, 6, 8)] == [1, 2, 4, 3, 4]


def test_discriminator_checks_its_sizes():
    with pytest.raises(ValueError, match="power of two"):
        Discriminator(24, WIDTHS)
    with pytest.raises(ValueError, match="64"):
        Discriminator(64, WIDTHS)
    assert Discriminator(16, WIDTHS)(images()).shape == (4, 1)


def test_cycle_makes_each_picture_from_what_its_name_says():
    torch.manual_seed(0)
    network = DPENetwork(CONFIG)
    a, b = images(2, seed=0), images(2, seed=1)
    with torch.no_grad():
        made = run_cycle(network, a, b)
        halfway = network(a, b, "pose")
        expected = {
            "pose_halfway": halfway,
            "pose_exp_end": network(halfway, b, "exp"),
            "exp_halfway": network(b, a, "exp"),
            "exp_pose_end": network(network(b, a, "exp"), a, "pose"),
            "self_pose": network(a, a, "pose"),
            "self_exp": network(a, a, "exp"),
        }
    for name, image in expected.items():
        assert torch.allclose(getattr(made, name), image, atol=1e-4), name


def test_flow_loss_is_zero_at_the_true_position_and_counts_in_half_pictures():
    size = 16
    flow, visible = still_flow(2, size), torch.ones(2, 1, size, size)
    maps = fetching(flow, mask=9.0)
    distance, opening = flow_loss([maps], flow, visible)
    assert distance.item() == pytest.approx(0.0, abs=1e-6)
    assert opening.item() < 1e-3
    moved, _ = flow_loss([maps], flow + 0.25, visible)
    assert moved.item() == pytest.approx(0.25, abs=1e-5)


def test_levels_above_the_flow_are_held_to_the_enlarged_one():
    flow, visible = still_flow(1, 8), torch.ones(1, 1, 8, 8)
    maps = fetching(still_flow(1, 16))
    visible[..., :, 0] = visible[..., :, -1] = visible[..., 0, :] = visible[..., -1, :] = 0  # no neighbours there
    assert flow_loss([maps], flow, visible)[0] < 1e-6
    assert flow_loss([maps], flow + 0.25, visible)[0] == pytest.approx(0.25, abs=1e-5)
    # Beside what is hidden nothing is asked for.
    hidden = flow.clone()
    hidden[..., 4] = 7.0
    visible[..., 4] = 0.0
    assert flow_loss([maps], hidden, visible)[0] < 1e-6


def test_flow_loss_ignores_hidden_points():
    flow, visible = still_flow(1, 16), torch.zeros(1, 1, 16, 16)
    distance, opening = flow_loss([torch.zeros(1, 3, 8, 8)], flow + 1, visible)
    assert distance.item() == 0.0 and opening.item() == 0.0


def test_true_flow_warps_the_source_into_the_target():
    """The convention of the data is grid_sample's with align_corners=False."""
    source = images(1)
    target = torch.roll(source, 2, dims=-1)
    flow = still_flow(1, 16)
    flow[:, 0] -= 2 * 2 / 16
    warped = F.grid_sample(source, flow.permute(0, 2, 3, 1), align_corners=False)
    assert torch.allclose(warped[..., 2:], target[..., 2:], atol=1e-4)


def test_shrinking_a_flow_averages_what_is_visible():
    flow, visible = still_flow(1, 8), torch.ones(1, 1, 8, 8)
    small, share = shrink_flow(flow, visible, 4)
    assert torch.allclose(small, still_flow(1, 4)) and share.min() == 1.0
    visible[..., 0, 1] = 0.0
    flow[..., 0, 1] = 99.0
    small, share = shrink_flow(flow, visible, 4)
    assert small.abs().max() < 1.0 and share[0, 0, 0, 0] == 0.75


def test_zero_flows_make_the_first_warp_the_identity():
    network = DPENetwork(CONFIG)
    zero_flows(network)
    with torch.no_grad():
        encoded = network.encode(images())
        _, maps = network.dec_pose.render_levels(encoded.w, encoded.features)
    for level in maps:
        assert level[:, :2].abs().max() == 0.0
        assert level[:, 2, 3:-3, 3:-3].min() > 1.0


def test_a_fresh_network_can_start_as_a_copy_of_its_source():
    network = DPENetwork(CONFIG)
    zero_flows(network)
    start_as_copy(network)
    source, driving = images(2), images(2, seed=1)
    with torch.no_grad():
        for branch in ("pose", "exp"):
            made = network(source, driving, branch)
            # Inside, but for the slight stretch of the identity grid, and 5 % that the mask leaves out.
            near = F.avg_pool2d(made, 4)[..., 1:3, 1:3], F.avg_pool2d(source, 4)[..., 1:3, 1:3]
            assert torch.corrcoef(torch.stack([x.flatten() for x in near]))[0, 1] > 0.9


def run_supervision(weights, step=0, pose_branch="pose", batch=None):
    torch.manual_seed(0)
    network, heads = DPENetwork(CONFIG), ParameterHeads(8, 6, 5)
    made = Supervision(weights, pose_branch, None)(network, heads, batch or supervised(), step, None)
    return network, made


def test_supervision_reaches_both_branches_and_the_encoder():
    network, made = run_supervision(SupervisedWeights())
    torch.stack(list(made.terms.values())).sum().backward()
    for name in ("enc.net_app.convs.0.0.weight", "mlp.0.weight", "dir.weight", "mlp_pose.0.weight", "mlp_exp.0.weight",
                 "dec_pose.to_flows.0.conv.weight", "dec_exp.to_rgbs.1.conv.0.weight"):  # fmt: skip
        assert network.get_parameter(name).grad.abs().sum() > 0, name


def test_occasional_terms_come_when_they_are_due():
    weights = SupervisedWeights(both_every=4, leak_every=4)
    assert "both_l1" in run_supervision(weights, 0)[1].terms
    assert "leak" not in run_supervision(weights, 0)[1].terms
    assert "leak" in run_supervision(weights, 2)[1].terms
    assert "both_l1" not in run_supervision(weights, 1)[1].terms
    assert "both_l1" not in run_supervision(dataclasses.replace(weights, both_every=0), 0)[1].terms


def test_the_role_of_a_branch_is_data():
    straight, swapped = (run_supervision(SupervisedWeights(), 1, b)[1] for b in ("pose", "exp"))
    assert torch.allclose(straight.edits.images["pose"], swapped.edits.images["pose"])
    truth = supervised()
    region = region_weight(truth.source, truth.exp_target, SupervisedWeights().region)
    wanted = pyramid_l1(swapped.edits.images["pose"], truth.exp_target, region)
    assert swapped.terms["exp_l1"].item() == pytest.approx(10 * wanted.item(), rel=1e-5)


def test_part_of_a_batch_is_driven_by_itself():
    batch = dataclasses.replace(supervised(), own=torch.tensor([True, True, False, False]))
    made = run_supervision(SupervisedWeights(), 1, batch=batch)[1]
    assert torch.equal(made.batch.driver[:2], made.batch.source[:2])
    assert torch.equal(made.batch.pose_target[:2], made.batch.source[:2])
    assert torch.equal(made.batch.driver_pose[:2], made.batch.source_pose[:2])
    assert torch.equal(made.batch.driver[2:], supervised().driver[2:])


def test_growing_keeps_the_function():
    torch.manual_seed(0)
    small = DPENetwork(CONFIG)
    large = grow(small, NetworkConfig(32, 8, 4, {4: 8, 8: 8, 16: 8, 32: 8}))
    # A smooth picture: on others, halving with two filters differs.
    coarse = images(2, 4)
    x32 = F.interpolate(coarse, size=(32, 32), mode="bicubic", align_corners=True)
    blur = large.enc.net_app.convs[1].conv2.get_submodule("0")
    x16 = blur(x32)[:, :, 1::2, 1::2]
    with torch.no_grad():
        old, new = small.encode(x16), large.encode(x32)
        assert torch.allclose(new.features[1], old.features[1], atol=1e-4)
        assert torch.allclose(new.w, old.w, atol=1e-3)
        alpha = torch.randn(2, 4)
        rendered, up = small.render(old, alpha, "exp"), large.render(new, alpha, "exp")
        again = large.dec_exp.to_rgbs[-1].upsample(rendered)
    assert torch.allclose(up, again, atol=1e-2)


def test_growing_sharply_keeps_the_flow_and_reads_the_colours_at_the_new_size():
    torch.manual_seed(0)
    small = DPENetwork(CONFIG)
    zero_flows(small)
    start_as_copy(small)
    grown = grow(small, NetworkConfig(32, 8, 4, {4: 8, 8: 8, 16: 8, 32: 8}), sharp=True)
    source = torch.rand(2, 3, 32, 32) * 2 - 1  # nothing that a smaller picture could hold
    with torch.no_grad():
        made = grown(source, source.flip(0), "pose")
        encoded = grown.encode(source)
        _, maps = grown.dec_pose.render_levels(encoded.w, encoded.features)
    assert all(level[:, :2].abs().max() == 0.0 for level in maps)
    inner = made[..., 14:18, 14:18].flatten(), source[..., 14:18, 14:18].flatten()
    assert torch.corrcoef(torch.stack(inner))[0, 1] > 0.9


def test_growing_sharply_keeps_what_the_colours_become_and_what_is_painted():
    torch.manual_seed(0)
    small = DPENetwork(CONFIG)
    zero_flows(small)
    start_as_copy(small)
    with torch.no_grad():
        last, below = small.dec_exp.to_rgbs[-1], small.dec_exp.to_rgbs[-2]
        last.conv.conv.weight.mul_(torch.tensor([0.9, 0.7, 0.5])[:, None, None, None])  # a tint
        last.bias.add_(0.05)
        below.conv.conv.weight.normal_()  # paint
    grown = grow(small, NetworkConfig(32, 8, 4, {4: 8, 8: 8, 16: 8, 32: 8}), sharp=True)
    even = torch.tensor([0.6, -0.2, 0.1]).view(1, 3, 1, 1)  # flat pictures come in one size
    with torch.no_grad():
        code = small.encode(even.expand(-1, -1, 16, 16))
        alpha = torch.randn(1, 4)
        old = small.render(code, alpha, "exp")
        new = grown.render(grown.encode(even.expand(-1, -1, 32, 32)), alpha, "exp")
    inner = new[..., 12:20, 12:20].mean((2, 3)), old[..., 6:10, 6:10].mean((2, 3))
    assert torch.allclose(*inner, atol=0.01)


def test_widening_keeps_the_function_and_lets_the_new_channels_learn():
    torch.manual_seed(0)
    small = DPENetwork(CONFIG)
    wide = grow(small, NetworkConfig(16, 8, 4, {4: 12, 8: 10, 16: 8}))
    source, driver = images(2, 16), images(2, 16).flip(-1)
    for branch in ("pose", "exp"):
        assert torch.allclose(wide(source, driver, branch), small(source, driver, branch), atol=1e-4)
    wide(source, driver, "exp").square().sum().backward()
    fresh = wide.dec_exp.convs[1].conv.weight.grad[0, :8, 8:]
    assert fresh.shape[1] == 2 and fresh.abs().min() > 0


def test_widening_and_enlarging_go_together():
    torch.manual_seed(0)
    config = NetworkConfig(32, 8, 4, {4: 12, 8: 8, 16: 10, 32: 8})
    grown = grow(DPENetwork(CONFIG), config)
    assert grown.config == config
    assert grown(images(1, 32), images(1, 32), "pose").shape == (1, 3, 32, 32)


def test_growing_refuses_narrower_layers_and_other_codes():
    with pytest.raises(CheckpointError, match="shrink at .8. px"):
        grow(DPENetwork(CONFIG), NetworkConfig(32, 8, 4, {4: 8, 8: 4, 16: 8, 32: 8}))
    with pytest.raises(CheckpointError, match="same sizes"):
        grow(DPENetwork(CONFIG), NetworkConfig(32, 16, 4, {4: 8, 8: 8, 16: 8, 32: 8}))


def test_growing_a_discriminator_keeps_its_lower_blocks():
    small = Discriminator(16, WIDTHS)
    large = grow_discriminator(small, 32, WIDTHS)
    assert large.size == 32
    assert torch.equal(large.convs[2].conv1.conv.weight, small.convs[1].conv1.conv.weight)
    assert torch.equal(large.final_linear[1].weight, small.final_linear[1].weight)


def test_orthogonal_motion_keeps_every_direction():
    network = DPENetwork(CONFIG)
    orthogonal_motion(network)
    with torch.no_grad():
        matrix = torch.eye(8)
        for layer in network.mlp_exp:
            matrix = layer.effective_weight() @ matrix
    assert torch.allclose(matrix @ matrix.T, torch.eye(8), atol=1e-5)


def test_the_flow_can_count_more_where_something_moves():
    wanted, seen = still_flow(1, 16), torch.ones(1, 1, 16, 16)
    moved = wanted.clone()
    moved[:, :, :4, :4] += 0.2
    maps = [torch.zeros(1, 3, 16, 16)]
    plain, _ = flow_loss(maps, moved, seen)
    stressed, _ = flow_loss(maps, moved, seen, region=10.0)
    assert stressed > 2 * plain
    assert torch.allclose(flow_loss(maps, wanted, seen, region=10.0)[0], flow_loss(maps, wanted, seen)[0])


def test_falling_short_can_count_more_than_going_too_far():
    still, seen = still_flow(1, 16), torch.ones(1, 1, 16, 16)
    way = torch.tensor([0.06, -0.08]).view(1, 2, 1, 1)
    wanted = still + way

    def loss(share, reach):
        return flow_loss([fetching(still + share * way)], wanted, seen, reach=reach)[0].item()

    assert loss(1.5, 0.0) == pytest.approx(loss(0.5, 0.0), abs=1e-6)
    assert loss(1.5, 2.0) == pytest.approx(loss(1.5, 0.0), abs=1e-6)
    # 0.05 are missing along the way, halved.
    assert loss(0.5, 2.0) - loss(0.5, 0.0) == pytest.approx(2.0 * 0.025, abs=1e-6)
    # Aside of the way nothing is missing, and where nothing moves nothing can be.
    aside = torch.tensor([0.08, 0.06]).view(1, 2, 1, 1)
    for maps, truth in ((fetching(wanted + aside), wanted), (fetching(still + way), still)):
        plain, reaching = (flow_loss([maps], truth, seen, reach=reach)[0].item() for reach in (0.0, 2.0))
        assert reaching == pytest.approx(plain, abs=1e-6)


def test_the_reach_of_flows_is_the_expressions_alone():
    far = {f"{name}_flow": still_flow(4, 16) + 0.1 for name in ("pose", "exp", "both")}
    batch = dataclasses.replace(supervised(), **far)
    weights = [SupervisedWeights(flow_reach=reach) for reach in (0.0, 3.0)]
    plain, reaching = (run_supervision(one, batch=batch)[1].terms for one in weights)
    assert reaching["pose_flow"] == plain["pose_flow"]
    assert reaching["exp_flow"] > 1.5 * plain["exp_flow"]


def test_errors_that_neighbours_share_keep_a_shape():
    wanted, seen = still_flow(1, 16), torch.ones(1, 1, 16, 16)
    maps = [fetching(wanted)]
    shifted, torn = wanted + 0.1, wanted.clone()
    torn[..., ::2] += 0.2  # as far off on average
    plain = [flow_loss(maps, w, seen)[0].item() for w in (shifted, torn)]
    assert plain == pytest.approx([0.1, 0.1], abs=1e-5)
    assert flow_loss(maps, shifted, seen, shape=2.0)[0].item() == pytest.approx(0.1, abs=1e-5)
    assert flow_loss(maps, torn, seen, shape=2.0)[0].item() == pytest.approx(0.1 + 2.0 * 0.2, abs=1e-5)
    # Beside what is hidden nobody's error is known.
    seen[..., ::2] = 0.0
    assert flow_loss(maps, torn, seen, shape=2.0)[0].item() == pytest.approx(0.0, abs=1e-5)


def marked(left_eye, chin):
    """Landmarks [1, 136] in their unit: an eye's corner and the chin at these places, the others outside."""
    marks = torch.full((1, 68, 2), 9.0)
    marks[0, 36], marks[0, 8] = torch.tensor(left_eye), torch.tensor(chin)
    return (marks / LANDMARK_UNIT).flatten(1)


def test_the_focus_lies_on_what_carries_an_expression():
    weight = focus_weight(marked((-0.5, -0.25), (0.0, 0.75)))
    assert weight.shape == (1, 1, 32, 32)
    row, column = divmod(int(weight.argmax()), 32)
    axis = (np.arange(32) * 2 + 1) / 32 - 1
    assert axis[column] == pytest.approx(-0.5, abs=1 / 32) and axis[row] == pytest.approx(-0.25, abs=1 / 32)
    assert weight[..., 16:, :].max() < 0.01  # the chin does not count


def test_small_parts_weigh_as_much_as_large_ones():
    marks = torch.full((1, 68, 2), 9.0)
    marks[0, 36:48] = torch.tensor([-0.5, 0.0])
    lids = focus_weight((marks / LANDMARK_UNIT).flatten(1))
    marks[0, 36:48] = 9.0
    marks[0, 48:68, 0], marks[0, 48:68, 1] = torch.linspace(-0.5, 0.5, 20), 0.5
    mouth = focus_weight((marks / LANDMARK_UNIT).flatten(1))
    assert lids.mean().item() == pytest.approx(1.0) and mouth.mean().item() == pytest.approx(1.0)
    assert lids.max() > 2 * mouth.max()


def test_flow_and_pixels_count_more_in_focus():
    focus = 0.2 * focus_weight(marked((-0.5, -0.5), (9.0, 9.0)))
    wanted, seen = still_flow(1, 16), torch.ones(1, 1, 16, 16)
    near, far = wanted.clone(), wanted.clone()
    near[..., 3:5, 3:5] += 0.5
    far[..., 11:13, 11:13] += 0.5
    maps = [torch.zeros(1, 3, 16, 16)]
    base, *found = (flow_loss(maps, w, seen, focus=focus)[0].item() for w in (wanted, near, far))
    assert found[0] - base > 2 * (found[1] - base) > 0
    black = torch.zeros(1, 3, 16, 16)
    region = region_weight(black, black, 2.0, [focus])
    assert region.mean().item() == pytest.approx(1.0) and region[0, 0, 4, 4] > 2 * region[0, 0, 12, 12]


@pytest.mark.parametrize("target, other", [("exp", "pose"), ("pose", "exp")])
def test_each_truth_has_its_own_focus(target, other):
    plain, moved = supervised(), supervised()
    places = marked((0.5, 0.5), (9.0, 9.0)).expand(4, -1)
    rest = marked((-0.5, -0.5), (9.0, 9.0)).expand(4, -1)
    number = {"pose": 2, "exp": 3}[target]
    plain = dataclasses.replace(plain, landmarks=torch.stack([rest] * 5, 1))
    moved = dataclasses.replace(moved, landmarks=torch.stack([places if i == number else rest for i in range(5)], 1))
    weights = SupervisedWeights(focus=1.0, flow_focus=1.0)
    first, second = (run_supervision(weights, 1, batch=batch)[1].terms for batch in (plain, moved))
    for name in ("l1", "flow"):
        assert first[f"{target}_{name}"] != second[f"{target}_{name}"]
        assert first[f"{other}_{name}"] == second[f"{other}_{name}"]


def test_open_masks_are_driven_no_further_and_hidden_pixels_not_at_all():
    logits = torch.tensor([MASK_OPEN - 2.0, MASK_OPEN + 0.5, MASK_OPEN + 20.0, -5.0])
    maps = torch.zeros(1, 3, 2, 2)
    maps[0, 2] = logits.view(2, 2)
    maps.requires_grad_()
    visible = torch.tensor([[1.0, 1.0], [1.0, 0.0]]).view(1, 1, 2, 2)
    _, opening = flow_loss([maps], still_flow(1, 2), visible)
    assert opening.item() == pytest.approx(2.0 / 3)
    opening.backward()
    assert maps.grad[0, 2].flatten().tolist() == pytest.approx([-1.0 / 3, 0.0, 0.0, 0.0])


@pytest.mark.parametrize("side", [4, 16], ids=["coarse", "fine"])
def test_what_the_source_hides_weighs_the_same_however_little_it_is(side):
    black = torch.zeros(2, 3, 16, 16)
    visible = torch.ones(2, 1, side, side)
    visible[0, 0, 0, :2] = 0.0
    visible[1, 0, :2] = 0.0
    hidden = F.interpolate(1.0 - visible, (16, 16), mode="bilinear")
    weight = region_weight(black, black, 0.0, [0.5 * hidden_weight(visible)])
    assert torch.allclose(weight.mean((1, 2, 3)), torch.ones(2))
    share = ((weight - weight.flatten(1).amin(1).view(2, 1, 1, 1)) * (hidden > 0)).mean((1, 2, 3))
    assert torch.allclose(share, torch.full((2,), 0.5 / 1.5))
    assert weight[0, 0, 0, 0] > 2 * weight[1, 0, 0, 0] > 2 * weight[1, 0, -1, -1]


def test_nothing_hidden_adds_no_weight_and_a_speck_is_not_made_up_for():
    seen = torch.ones(1, 1, 64, 64)
    assert hidden_weight(seen).max() == 0.0
    seen[..., 5, 5] = 0.0
    assert hidden_weight(seen).mean() < 0.1


@pytest.mark.parametrize("target, other", [("exp", "pose"), ("pose", "exp")])
def test_each_truth_has_its_own_hidden_part(target, other):
    seen, part = torch.ones(4, 1, 16, 16), torch.ones(4, 1, 16, 16)
    part[..., :4, :4] = 0.0
    plain = dataclasses.replace(supervised(), pose_visible=seen, exp_visible=seen)
    parted = dataclasses.replace(plain, **{f"{target}_visible": part})
    weights = SupervisedWeights(hidden=1.0, mask=0.0, flow=0.0)
    first, second = (run_supervision(weights, 1, batch=batch)[1].terms for batch in (plain, parted))
    assert first[f"{target}_l1"] != second[f"{target}_l1"]
    assert first[f"{other}_l1"] == second[f"{other}_l1"]


def test_parts_of_a_face_count_alike_in_its_expression():
    shape = torch.zeros(2, 68, 3)
    shape[0, 36:48], shape[1, 48:] = 0.1, 0.5  # a standard deviation of lids and of a mouth, cm
    units = expression_units(shape, torch.tensor([[10.0, 0.0], [0.0, 6.0]]))
    assert units[0, 36 * 3 : 48 * 3].mean().item() == pytest.approx(units[1, 48 * 3 : 68 * 3].mean().item())
    assert units[0, 204] == units[1, 205] == 1.0


def test_reading_teaches_the_pictures_and_not_who_reads_them():
    network, heads = DPENetwork(CONFIG), ParameterHeads(8, 6, 5, 10)
    pictures = images().requires_grad_()
    found = encode_frozen(network, pictures)
    with torch.no_grad():
        plain = network.encode(pictures)
    assert torch.equal(found.w, plain.w)
    loss = reading_difference(heads, found.w, plain.w[[1, 2, 3, 0]])
    loss = loss + feature_difference(found.features, [f[[1, 2, 3, 0]] for f in plain.features])
    loss.backward()
    assert pictures.grad.abs().sum() > 0
    assert all(p.grad is None for p in (*network.parameters(), *heads.picture.parameters()))


def test_readings_differ_by_what_the_heads_tell_apart():
    heads = ParameterHeads(8, 6, 5, 10)
    heads.requires_grad_(False)
    code, step = torch.randn(4, 8), torch.randn(4, 8)
    assert float(reading_difference(heads, code, code)) == 0.0
    heads.picture.weight[:6] = 0.0
    heads.picture.weight[11:] = 0.0
    # Left is the expression, which counts three times.
    shown = F.linear(step, heads.picture.effective_weight()[6:11])
    expected = 3.0 * F.smooth_l1_loss(shown, torch.zeros_like(shown))
    assert float(reading_difference(heads, code + step, code)) == pytest.approx(float(expected), rel=1e-4)


def landmark_codes(**parts):
    """Codes [1, 136] that heads of `landmark_heads` read as landmarks that moved by so much, by part."""
    code = torch.zeros(68, 2)
    for name, move in parts.items():
        code[list({"brows": BROWS, "eyes": EYES, "mouth": MOUTH}[name])] = torch.tensor(move)
    return code.flatten()[None]


def landmark_heads():
    heads = ParameterHeads(136, 6, 5, 136)
    heads.requires_grad_(False)
    heads.picture.weight.zero_()
    heads.picture.weight[11:] = torch.eye(136) / heads.picture.scale
    return heads


@pytest.mark.parametrize(
    ("went", "missing"), [(0.0, 1.0), (0.5, 0.5), (1.0, 0.0), (1.5, 0.0), (-1.0, 2.0)], ids=lambda v: f"{v}"
)
def test_what_is_missing_of_a_movement_is_told_as_a_share_of_it(went, missing):
    start, way = torch.full((1, 136), 3.0), landmark_codes(eyes=(0.0, 2.0))
    found = shortfall(landmark_heads(), start, start + went * way, start + way)
    # The movement's squared length is 12 x 4; one of three parts has one.
    assert float(found) == pytest.approx(missing * 48 / 49 / 3, rel=1e-5)


def test_parts_count_by_their_own_ways_and_moving_elsewhere_does_not_make_up():
    start, heads = torch.zeros(1, 136), landmark_heads()
    way = landmark_codes(eyes=(0.0, 1.0), mouth=(0.0, 10.0))
    lids_left = shortfall(heads, start, landmark_codes(mouth=(0.0, 10.0)), way)
    mouth_left = shortfall(heads, start, landmark_codes(eyes=(0.0, 1.0)), way)
    assert float(lids_left) == pytest.approx(12 / 13 / 3, rel=1e-5)
    assert float(mouth_left) == pytest.approx(2000 / 2001 / 3, rel=1e-5)
    aside = landmark_codes(eyes=(5.0, 0.0), brows=(0.0, 5.0), mouth=(0.0, 10.0))
    assert float(shortfall(heads, start, aside, way)) == pytest.approx(float(lids_left), rel=1e-5)
    assert float(shortfall(heads, start, aside, start)) == 0.0


def test_features_are_compared_relative_to_their_sample_and_level():
    small, large = torch.rand(2, 3, 8, 8) + 0.1, 100 * torch.rand(2, 3, 4, 4) + 1.0
    small[1] *= 50.0
    apart = feature_difference((1.1 * small, 1.1 * large), (small, large))
    assert float(apart) == pytest.approx(0.1, rel=1e-3)


def test_readings_come_when_they_are_due_and_reach_the_generators():
    weights = SupervisedWeights(reading=1.0, features=0.1, reading_every=2)
    network, made = run_supervision(weights, 2)
    names = ("pose_reading", "exp_reading", "pose_features", "exp_features")
    torch.stack([made.terms[name] for name in names]).sum().backward()
    for name in ("dec_pose.to_rgbs.1.conv.0.weight", "dec_exp.to_rgbs.1.conv.0.weight"):
        assert network.get_parameter(name).grad.abs().sum() > 0, name
    assert not set(names) & run_supervision(weights, 1)[1].terms.keys()
    assert "exp_features" not in run_supervision(dataclasses.replace(weights, features=0.0), 2)[1].terms


def test_a_missing_movement_teaches_the_expressions_generator_and_not_the_poses():
    network, made = run_supervision(SupervisedWeights(shortfall=2.0), 1)
    assert "pose_shortfall" not in made.terms
    made.terms["exp_shortfall"].backward()
    assert network.get_parameter("dec_exp.to_rgbs.1.conv.0.weight").grad.abs().sum() > 0
    others = {name: p.grad for name, p in network.named_parameters() if name.startswith("dec_pose.")}
    assert not [name for name, grad in others.items() if grad is not None and grad.abs().sum() > 0]
    single = run_supervision(SupervisedWeights(shortfall=1.0), 1)[1].terms["exp_shortfall"]
    assert made.terms["exp_shortfall"].item() == pytest.approx(2.0 * single.item(), rel=1e-5)
