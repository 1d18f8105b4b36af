"""The published objective against numbers computed with the published implementation (CPU, float32, drawn weights)."""

import copy
import json
import math

import pytest
import torch
from safetensors.torch import load_file

from dpe_model.frames import to_network
from dpe_model.network import DPENetwork, NetworkConfig
from dpe_model.training.config import PublishedWeights
from dpe_model.training.cycle import run_cycle
from dpe_model.training.discriminator import Discriminator
from dpe_model.training.losses import PerceptualLoss, discriminator_adversarial
from dpe_model.training.published import published_loss

from .weights import DATA, manifest, state_dict

SIZE = 128
TOLERANCE = 1e-3
IMAGES = {
    "pose_halfway": "fake_poseB2A",
    "pose_exp_end": "fake_pose_expB2A",
    "exp_halfway": "fake_expA2B",
    "exp_pose_end": "fake_exp_poseA2B",
    "self_pose": "fake_selfpose",
    "self_exp": "fake_selfexp",
}
TERMS = {
    "perceptual": "vgg",
    "l1": "l1",
    "adversarial": "gan_g",
    "halfway_perceptual": "vgg_mid",
    "self": "rec",
}


@pytest.fixture(scope="module")
def golden():
    return load_file(DATA / "training_128_seed0.safetensors")


@pytest.fixture(scope="module")
def discriminator():
    network = Discriminator(SIZE, NetworkConfig.published(SIZE).channels)
    network.load_state_dict(state_dict(manifest("discriminator_128_cm1")))
    return network.requires_grad_(False)


@pytest.fixture(scope="module")
def perceptual():
    weights = state_dict({k: v for k, v in manifest("vgg19_features").items() if int(k.split(".")[1]) < 30})
    for name, w in weights.items():
        if name.endswith("weight"):
            w.mul_(math.sqrt(2.0 / w[0].numel()))
    loss = PerceptualLoss()
    loss.load_state_dict(weights)
    return loss


def run_step(golden, discriminator, perceptual, dtype=torch.float32, only=None):
    """One step's network (with gradients, of the parameters in `only` if given), pictures and loss."""
    network = DPENetwork(NetworkConfig.published(SIZE))
    network.load_state_dict(state_dict(manifest("generator_128_cm1")))
    network.to(dtype)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(only is None or name in only)
    a, b = (to_network(golden[k], SIZE).to(dtype) for k in ("source_rgb", "target_rgb"))
    images = run_cycle(network, a, b)
    loss = published_loss(images, a, b, PublishedWeights(), perceptual, discriminator)
    loss.total.backward()
    return network, images, loss


@pytest.fixture(scope="module")
def step(golden, discriminator, perceptual):
    return run_step(golden, discriminator, perceptual, only=gradient_names(golden))


def relative(found, expected):
    return float((found - expected).norm() / expected.norm())


def test_discriminator_has_the_published_names_and_shapes():
    for size in (128, 256):
        network = Discriminator(size, NetworkConfig.published(size).channels)
        assert {k: list(v.shape) for k, v in network.state_dict().items()} == manifest(f"discriminator_{size}_cm1")


def test_perceptual_loss_reads_the_published_layers(perceptual):
    known = manifest("vgg19_features")
    assert all(known[k] == list(v.shape) for k, v in perceptual.state_dict().items())


@pytest.mark.parametrize("ours, theirs", IMAGES.items())
def test_images(step, golden, ours, theirs):
    assert relative(getattr(step[1], ours).detach(), golden[theirs]) < TOLERANCE


def test_logits(golden, discriminator):
    a, b = (to_network(golden[k], SIZE) for k in ("source_rgb", "target_rgb"))
    with torch.no_grad():
        found = {
            "logit_B2A": discriminator(golden["fake_pose_expB2A"]),
            "logit_A2B": discriminator(golden["fake_exp_poseA2B"]),
            "logit_real_source": discriminator(a),
            "logit_real_target": discriminator(b),
        }
    for name, logits in found.items():
        assert relative(logits, golden[name]) < TOLERANCE, name
    loss = discriminator_adversarial(found["logit_real_target"], found["logit_B2A"])
    loss = loss + discriminator_adversarial(found["logit_real_source"], found["logit_A2B"])
    assert float(loss * PublishedWeights().discriminator) == pytest.approx(float(golden["loss/d"]), rel=TOLERANCE)


@pytest.mark.parametrize("ours, theirs", TERMS.items())
def test_loss_terms(step, golden, ours, theirs):
    assert step[2].terms[ours].item() == pytest.approx(float(golden[f"loss/{theirs}"]), rel=TOLERANCE)


def test_total(step, golden):
    assert step[2].total.item() == pytest.approx(float(golden["loss/g_total"]), rel=TOLERANCE)


def gradient_names(golden):
    return [k.removeprefix("gradnorm/") for k in golden if k.startswith("gradnorm/")]


def gradient_norm(network, name):
    return float(network.get_parameter(name).grad.norm())


def test_gradient_norms(step, golden):
    """With drawn weights these depend on the order of float32 sums: the published implementation itself, run again
    on another machine, lands up to 0.6 % from the stored values, and in float64 up to 1 %. This code lands from -1.1 to
    +1.0 % on processors with AVX-512, as the threads are one or two, and from -1.9 to +2.6 % with AVX2 alone, as oneDNN
    is on or off, too. What has to agree does in float64, below."""
    rounding = 2e-2 if torch.backends.cpu.get_cpu_capability() == "AVX512" else 4e-2
    names = gradient_names(golden)
    assert len(names) == 7
    for name in names:
        assert gradient_norm(step[0], name) == pytest.approx(float(golden[f"gradnorm/{name}"]), rel=rounding), name


def test_gradient_norms_in_double_precision(golden, discriminator, perceptual, monkeypatch):
    """Against the published implementation run in float64, where the order of sums does not matter."""
    expected = json.loads((DATA / "training_128_seed0_float64_gradnorms.json").read_text())
    monkeypatch.setattr(torch.Tensor, "float", lambda self: self.double())
    torch.set_default_dtype(torch.float64)
    try:
        network, _, _ = run_step(
            golden, copy.deepcopy(discriminator).double(), copy.deepcopy(perceptual).double(), torch.float64, expected
        )
    finally:
        torch.set_default_dtype(torch.float32)
    for name, norm in expected.items():
        assert gradient_norm(network, name) == pytest.approx(norm, rel=TOLERANCE), name
