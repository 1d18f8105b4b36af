"""The network against numbers computed with the published implementation (CPU, float32, drawn weights)."""

import pytest
import torch
from safetensors.torch import load_file

from dpe_model.frames import to_network
from dpe_model.network import DPENetwork

from .weights import DATA, manifest, state_dict

NAMES = manifest("generator_256_cm1")


@pytest.fixture(scope="module")
def golden():
    return load_file(DATA / "generator_256_seed0.safetensors")


@pytest.fixture(scope="module", params=["as trained", "folded"])
def network(request):
    network = DPENetwork()
    network.load_state_dict(state_dict(NAMES))
    return network.fold() if request.param == "folded" else network.eval()


@pytest.fixture(scope="module")
def encoded(network, golden):
    with torch.no_grad():
        source = network.encode(to_network(golden["source_rgb"], 256))
        driving = network.encode(to_network(golden["driving_rgb"], 256))
        return source, driving, network.motion(driving.w)


def relative(found, expected):
    return float((found - expected).norm() / expected.norm())


def half(images):
    return images.clamp(-1, 1)[:, :, ::2, ::2]


def assert_images_agree(found, expected):
    error = (half(found) - expected.clamp(-1, 1)).abs()
    assert float(error.mean()) < 1e-3
    assert float(error.max()) < 3e-2


def test_state_dict_has_the_published_names_and_shapes():
    network = DPENetwork()
    assert {k: list(v.shape) for k, v in network.state_dict().items()} == NAMES
    assert len(NAMES) == 326


def test_loads_strictly_with_and_without_blur_kernels():
    network = DPENetwork()
    weights = state_dict(NAMES)
    assert not any(n.endswith(".kernel") for n in weights)
    network.load_state_dict(weights, strict=True)
    network.load_state_dict(network.state_dict(), strict=True)
    del weights["mlp.0.bias"]
    with pytest.raises(RuntimeError, match="mlp.0.bias"):
        network.load_state_dict(weights, strict=True)


def test_codes(network, encoded, golden):
    source, driving, alpha = encoded
    assert relative(source.w, golden["source_code"]) < 1e-4
    assert relative(driving.w, golden["driving_code"]) < 1e-4
    assert relative(alpha, golden["driving_alpha"]) < 1e-4
    with torch.no_grad():
        assert relative(network.basis(), golden["direction_q"]) < 1e-4
        assert relative(alpha @ network.basis().T, golden["driving_motion"]) < 1e-4
        assert relative(network.branch_code(alpha, "pose"), golden["driving_pose_branch"]) < 1e-4
        assert relative(network.branch_code(alpha, "exp"), golden["driving_exp_branch"]) < 1e-4


def test_features(encoded, golden):
    for feature in encoded[0].features:
        size = feature.shape[-1]
        assert relative(feature.mean((2, 3)), golden[f"source_feature_{size}_mean"]) < 1e-4
        assert relative(feature[:, :4, :8, :8], golden[f"source_feature_{size}_corner"]) < 1e-4


def test_single_edits(network, encoded, golden):
    source, _, alpha = encoded
    with torch.no_grad():
        assert_images_agree(network.render(source, alpha, "pose"), golden["edit_exp"])
        assert_images_agree(network.render(source, alpha, "exp"), golden["edit_pose"])


def test_both_edits_reencode_between(network, encoded, golden):
    source, _, alpha = encoded
    with torch.no_grad():
        halfway = network.render(source, alpha, "pose")
        assert_images_agree(network.render(network.encode(halfway), alpha, "exp"), golden["edit_both"])


def test_still_image_with_two_drivers(network, encoded, golden):
    _, _, alpha = encoded
    with torch.no_grad():
        still = network.encode(to_network(golden["source_rgb"][:1], 256))
        halfway = network.encode(network.render(still, alpha, "pose"))
        result = network.render(halfway, alpha.flip(0), "exp")
        assert_images_agree(result, golden["oneshot_exp_then_pose"])


def test_batch_size_does_not_matter(network, encoded):
    source, _, alpha = encoded
    with torch.no_grad():
        together = network.render(source, alpha, "pose")
        assert together.shape == (2, 3, 256, 256)
        for i in range(2):
            one = type(source)(source.w[i : i + 1], tuple(f[i : i + 1] for f in source.features))
            alone = network.render(one, alpha[i : i + 1], "pose")
            assert float((alone[0] - together[i]).abs().max()) < 1e-2
