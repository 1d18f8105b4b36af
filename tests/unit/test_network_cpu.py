"""The network as CPUs run it, against the plain layers."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from dpe_model.network import NetworkConfig
from dpe_model.network.cpu import convolution, products, winograd
from dpe_model.network.cpu import network as cpu_network
from dpe_model.network.cpu.convolution import contract, convolve, convolve_onto, fuses, planar
from dpe_model.network.cpu.kernels import Phases, Plain, Taps, Winograd, choose, choose_up
from dpe_model.network.cpu.products import Packed, Stacked, has_onednn, multiply, prefers_onednn, to_keep
from dpe_model.network.cpu.sampling import upsample, warp
from dpe_model.network.cpu.winograd import convolve3x3, transform_weight
from dpe_model.network.encoder import Encoding
from dpe_model.network.generator import warp as plain_warp
from dpe_model.network.layers import up_blur

from .tiny import CONFIG, tiny_network

# Wide enough for Winograd's way; with a cache this small the maps from 16 px on go through one by one.
SMALL_CACHE = 2**16
WIDE = NetworkConfig(size=64, style_dim=16, motion_dim=3, channels={4: 8, 8: 512, 16: 128, 32: 128, 64: 8})


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def last(x):
    return x.contiguous(memory_format=torch.channels_last)


@pytest.fixture(params=[True, False], ids=["fused", "plain"])
def fusing(request, monkeypatch):
    if not request.param:
        monkeypatch.setattr(convolution, "fuses", lambda dtype: False)
    elif not fuses(torch.float32):
        pytest.skip("this build of PyTorch fuses nothing")


@pytest.fixture(params=["MKL", "oneDNN"])
def multiplying(request, monkeypatch):
    """Matrix products by either library, whichever is faster here."""
    if request.param == "oneDNN" and not has_onednn():
        pytest.skip("this build of PyTorch multiplies no float32 matrices with oneDNN")
    monkeypatch.setattr(products, "prefers_onednn", lambda: request.param == "oneDNN")


@pytest.fixture
def one_by_one(monkeypatch):
    monkeypatch.setattr(cpu_network, "CACHE", SMALL_CACHE)


@pytest.mark.parametrize("terms", [40, products.TERMS + 40])
def test_matrix_products(multiplying, terms):
    x, matrices = drawn(3, 7, terms), drawn(3, terms, 9, seed=1) / terms**0.5
    assert torch.allclose(multiply(x[0], matrices[0]), x[0] @ matrices[0], atol=1e-5)
    kept = to_keep(matrices, 7)
    assert isinstance(kept, Packed if products.prefers_onednn() else Stacked)
    assert kept.out == 9
    for rows in (7, 1, 3):  # also others than it was made for
        assert torch.allclose(kept.multiply(x[:, :rows]), x[:, :rows] @ matrices, atol=1e-5)


@pytest.mark.parametrize(("seconds", "faster"), [((1.0, 0.5), True), ((1.0, 0.9), False)])
def test_the_faster_library_is_preferred(forgetting, monkeypatch, seconds, faster):
    monkeypatch.setattr(products, "has_onednn", lambda: True)
    monkeypatch.setattr(products, "_seconds", lambda plain, onednn: seconds)
    assert prefers_onednn() is faster


@pytest.mark.parametrize("channels", [6, convolution.WIDE])
def test_convolution_with_bias_and_activation(fusing, channels):
    x, weight, bias = drawn(2, channels, 9, 9), drawn(5, channels, 3, 3, seed=1) / channels, drawn(5, seed=2)
    found = convolve(last(x), weight, bias, stride=2, padding=(1, 1), activate=True)
    assert torch.allclose(found, F.leaky_relu(F.conv2d(x, weight, bias, 2, 1), 0.2), atol=1e-5)
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_convolution_added_in_place(fusing):
    total, x, weight = last(drawn(2, 5, 7, 7)), last(drawn(2, 6, 7, 7, seed=1)), drawn(5, 6, 1, 1, seed=2)
    expected = total + F.conv2d(x, weight)
    assert torch.allclose(convolve_onto(total, x, weight), expected, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 5, 7, 6), (3, 70, 65, 65)])
def test_planar_order(shape):
    x = last(drawn(*shape))
    assert torch.equal(planar(x), x)
    assert planar(x).is_contiguous()
    assert planar(x.contiguous()).is_contiguous()


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_a_kernel_as_large_as_the_maps(order):
    x, weight = last(drawn(3, 6, 4, 4)), drawn(5, 6, 4, 4, seed=1).contiguous(memory_format=order)
    assert torch.allclose(contract(x, weight), F.conv2d(x, weight).flatten(1), atol=1e-5)


@pytest.mark.parametrize(
    ("form", "pictures"), [(Phases, 2), (lambda weight: Phases(weight, styled=True), 1), (Taps, 2)],
    ids=["phases", "styled phases", "taps"],
)  # fmt: skip
@pytest.mark.parametrize("size", [(40, 40), (5, 4)], ids=str)
def test_forms_of_a_transposed_convolution(fusing, multiplying, form, pictures, size):
    x, weight, style = drawn(pictures, 6, *size), drawn(4, 6, 3, 3, seed=1), drawn(pictures, 6, seed=2)
    expected = F.conv_transpose2d(x * style[:, :, None, None], weight.transpose(0, 1), stride=2)
    found = form(weight)(last(x), style)
    assert torch.allclose(found, expected, atol=1e-5)
    assert found.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("form", [Plain, Winograd.of])
@pytest.mark.parametrize("activate", [True, False])
def test_forms_of_a_convolution_and_their_scaling(fusing, multiplying, form, activate):
    x, weight, bias = drawn(3, 6, 8, 12), drawn(5, 6, 3, 3, seed=1), drawn(5, seed=2)
    by_input, by_output = drawn(6, seed=3), drawn(5, seed=4)
    scaled = weight * by_input[:, None, None] * by_output[:, None, None, None]
    for kernel, plain in (
        (form(weight), weight),
        (form(weight).settled(), weight),
        (form(weight).scaled(by_input, by_output), scaled),
    ):
        expected = F.conv2d(x, plain, bias, padding=1)
        found = kernel(last(x), bias, activate)
        assert torch.allclose(found, F.leaky_relu(expected, 0.2) if activate else expected, atol=1e-4)
        assert found.is_contiguous(memory_format=torch.channels_last)


def test_which_form_is_chosen():
    wide, narrow = torch.zeros(8, 512, 3, 3), torch.zeros(8, 64, 3, 3)
    assert isinstance(choose(wide, 16), Winograd)
    plain = (choose(narrow, 16), choose(wide, 8), choose(wide, 16, 2, 0), choose(wide.bfloat16(), 16))
    assert all(isinstance(kernel, Plain) for kernel in (*plain, choose(wide[..., :1, :1], 16, 1, 0)))
    assert isinstance(choose_up(wide, 16, alone=True), Taps)
    assert isinstance(choose_up(wide.half(), 16, alone=False), Phases)


@pytest.mark.parametrize(("size", "alone", "styled"), [(64, True, True), (4, True, False), (64, False, False)])
def test_styles_go_into_the_weight_where_one_picture_s_maps_are_larger(size, alone, styled):
    kernel = choose_up(torch.zeros(8, 64, 3, 3), size, alone)
    assert isinstance(kernel, Phases)
    assert kernel.styled is styled


@pytest.mark.parametrize("size", [(4, 4), (8, 12), (16, 16), (64, 64), (36, 84)], ids=str)
@pytest.mark.parametrize("pictures", [1, 3])
@pytest.mark.parametrize("activate", [True, False])
@pytest.mark.parametrize("values", [winograd.VALUES, 36])
def test_winograd(monkeypatch, multiplying, size, pictures, activate, values):
    """Also where a map's tiles need more than one go, and the last go is a smaller one."""
    monkeypatch.setattr(winograd, "VALUES", values)
    x, weight, bias = drawn(pictures, 6, *size), drawn(5, 6, 3, 3, seed=1), drawn(5, seed=2)
    found = convolve3x3(last(x), to_keep(transform_weight(weight), 16), bias, activate)
    expected = F.conv2d(x, weight, bias, padding=1)
    assert torch.allclose(found, F.leaky_relu(expected, 0.2) if activate else expected, atol=5e-5)
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_winograd_rounds_as_one_sum_over_all_channels_does(multiplying):
    """With the points 0, 1, -1, 2, -2 it is twice as far off."""
    x, weight = F.leaky_relu(drawn(1, 512, 16, 16), 0.2), drawn(512, 512, 3, 3, seed=1) / (9 * 512) ** 0.5
    exact = F.conv2d(x.double(), weight.double(), padding=1)
    error = (convolve3x3(last(x), to_keep(transform_weight(weight), 64)) - exact).square().mean().sqrt()
    assert float(error) < 1.2e-6  # outputs are about 0.7


def test_upsampling_is_the_blur(fusing):
    x = drawn(2, 3, 6, 5)
    assert torch.allclose(upsample(x), up_blur(up=2)(x), atol=1e-6)


@pytest.mark.parametrize("pictures", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_warping(pictures, dtype):
    """Also far beyond the edge, where zeros are fetched."""
    features, maps = last(drawn(pictures, 4, 8, 8).to(dtype)), 2 * drawn(3, 3, 8, 8, seed=1)
    found, keep = warp(features, maps)
    sampled, mask = plain_warp(features.float().expand(3, -1, -1, -1), maps)
    tolerance = 1e-5 if dtype == torch.float32 else 3e-2
    assert torch.allclose(found.float(), sampled * mask, atol=tolerance, rtol=tolerance)
    assert torch.allclose(keep.float(), 1 - mask, atol=tolerance)
    assert found.dtype == keep.dtype == dtype


def test_warping_along_no_flow_at_all():
    maps = drawn(1, 3, 8, 8)
    maps[0, 0, 3, 4], maps[0, 1, 5, 6] = float("nan"), float("inf")
    found, _ = warp(last(drawn(1, 4, 8, 8)), maps)
    bad = ~torch.isfinite(found[0]).all(0)
    assert bad.nonzero().tolist() == [[3, 4]]  # the infinite one lies at the edge after tanh


@pytest.mark.parametrize("config", [CONFIG, WIDE], ids=["small", "large and wide"])
@pytest.mark.parametrize("still", [False, True], ids=["moving", "still"])
def test_the_whole_network(fusing, one_by_one, config, still):
    plain, folded = tiny_network(config=config).eval(), tiny_network(config=config).fold()
    images = drawn(3, 3, config.size, config.size).clamp(-1, 1)
    with torch.no_grad():
        expected, found = plain.encode(images), folded.encode(images)
        assert torch.allclose(found.w, expected.w, atol=1e-5)
        assert len(found.features) == len(expected.features) == len(config.resolutions)
        for a, b in zip(found.features, expected.features, strict=True):
            assert torch.allclose(a, b, atol=1e-4)
        alpha = plain.motion(expected.w).flip(0)
        if still:
            expected, found = (Encoding(e.w[:1], tuple(f[:1] for f in e.features)) for e in (expected, found))
        for branch in ("pose", "exp"):
            difference = folded.render(found, alpha, branch) - plain.render(expected, alpha, branch)
            assert float(difference.abs().max()) < 1e-3
        assert folded.encode(images, with_features=False).features == ()


@pytest.mark.parametrize("config", [CONFIG, WIDE], ids=["small", "large and wide"])
def test_a_picture_among_others_is_what_it_is_alone(one_by_one, multiplying, config):
    """To the bit: no frame depends on how many are gone through at a time."""
    if not fuses(torch.float32):
        pytest.skip("this build of PyTorch convolves a picture alone in another way than several")
    network = tiny_network(config=config).fold()
    images = drawn(3, 3, config.size, config.size)
    with torch.no_grad():
        together = network.encode(images)
        pictures = network.render(together, network.motion(together.w), "pose")
        for i in range(3):
            alone = network.encode(images[i : i + 1])
            assert torch.equal(alone.w, together.w[i : i + 1])
            picture = network.render(alone, network.motion(alone.w), "pose")
            assert torch.equal(picture[0], pictures[i])


def test_the_cache_changes_the_way_only(monkeypatch):
    network = tiny_network(config=WIDE).fold()
    images = drawn(3, 3, 64, 64).clamp(-1, 1)
    results = []
    for cache in (0, SMALL_CACHE, 2**30):
        monkeypatch.setattr(cpu_network, "CACHE", cache)
        with torch.no_grad():
            encoding = network.encode(images)
            results.append(network.render(encoding, network.motion(encoding.w), "pose"))
    for other in results[1:]:
        assert float((other - results[0]).abs().max()) < 2e-3


def test_gradients_flow_through_a_folded_network():
    network = tiny_network().fold()
    images = drawn(2, 3, 16, 16).requires_grad_()
    encoding = network.encode(images)
    network.render(encoding, network.motion(encoding.w), "pose").sum().backward()
    assert float(images.grad.abs().sum()) > 0


def test_cast_weights_are_used():
    network = tiny_network().fold()
    images = drawn(1, 3, 16, 16)
    with torch.no_grad():
        before = network.encode(images).w
        network.fold(torch.bfloat16)
        after = network.encode(images)
    assert after.features[0].dtype == torch.bfloat16
    assert 0 < float((after.w - before).abs().max()) < 0.1


@pytest.fixture
def forgetting():
    """What was found out about the build is forgotten before and after."""
    found = (fuses, has_onednn, prefers_onednn)
    for cached in found:
        cached.cache_clear()
    yield
    for cached in found:
        cached.cache_clear()


def test_a_missing_operator_is_no_error(forgetting, monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert not fuses(torch.float32)
    assert not has_onednn()
    assert not prefers_onednn()


def test_an_operator_that_computes_something_else_is_not_used(forgetting, monkeypatch):
    class Wrong:
        @staticmethod
        def _convolution_pointwise(x, weight, *_):
            return torch.zeros(2, 3, 6, 6)

        class _convolution_pointwise_:  # noqa: N801
            @staticmethod
            def binary(total, *_):
                return total

        @staticmethod
        def _reorder_linear_weight(weight, rows):
            return weight

        @staticmethod
        def _linear_pointwise(x, weight, *_):
            return torch.zeros(len(x), len(weight))

    monkeypatch.setattr(torch.ops, "mkldnn", Wrong, raising=False)
    assert not fuses(torch.float32)
    assert not has_onednn()


def test_half_precision_large_maps(one_by_one):
    network, half = tiny_network(config=WIDE).fold(), tiny_network(config=WIDE).fold(torch.bfloat16)
    images = drawn(2, 3, 64, 64).clamp(-1, 1)
    with torch.no_grad():
        a, b = network.encode(images), half.encode(images)
        alpha = network.motion(a.w)
        expected, found = network.render(a, alpha, "exp"), half.render(b, alpha, "exp")
    assert found.dtype == torch.float32
    assert float((found - expected).abs().mean()) < 0.12 * float(expected.abs().mean())
