"""Model files: opened by content, refused with reasons."""

import argparse
import pickle
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from dpe_model.checkpoint import (
    BranchRoles,
    convert_checkpoint,
    load_checkpoint,
    read_checkpoint,
    save_checkpoint,
)
from dpe_model.errors import CheckpointError
from dpe_model.network import NetworkConfig

from .tiny import CONFIG, tiny_network


@pytest.fixture
def weights():
    return {n: t.clone() for n, t in tiny_network().state_dict().items()}


def without_kernels(weights):
    return {n: t for n, t in weights.items() if not n.endswith(".kernel")}


class Exploit:
    def __reduce__(self):
        return (exec, ("raise SystemExit('code ran')",))


@pytest.mark.parametrize("wrap", ["bare", "gen", "training", "ddp", "no kernels"])
def test_opens_the_authors_formats(tmp_path, weights, wrap):
    content = {
        "bare": weights,
        "gen": {"gen": weights},
        "training": {"gen": weights, "dis": {}, "g_optim": {"state": {}}, "args": argparse.Namespace(size=16)},
        "ddp": {"gen": {f"module.{n}": t for n, t in weights.items()}},
        "no kernels": {"gen": without_kernels(weights)},
    }[wrap]
    torch.save(content, tmp_path / "dpe.pt")
    checkpoint = load_checkpoint(tmp_path / "dpe.pt", training=True)
    assert checkpoint.config == CONFIG
    assert checkpoint.roles == BranchRoles(expression="pose", pose="exp")
    for name, tensor in checkpoint.network.state_dict().items():
        assert torch.equal(tensor, weights[name]), name


@pytest.mark.parametrize(
    "config",
    [
        NetworkConfig(8, 4, 2, {4: 4, 8: 6}),
        NetworkConfig(32, 12, 5, {4: 12, 8: 10, 16: 6, 32: 2}),
        NetworkConfig(64, 16, 20 - 5, {4: 4, 8: 6, 16: 8, 32: 10, 64: 12}),
    ],
)
def test_configuration_comes_from_names_and_shapes(tmp_path, config):
    network = tiny_network(config=config)
    save_checkpoint(tmp_path / "m.safetensors", network, BranchRoles())
    assert read_checkpoint(tmp_path / "m.safetensors").config == config


def test_inference_form_computes_the_same(tmp_path, weights):
    torch.save(weights, tmp_path / "dpe.pt")
    trained = load_checkpoint(tmp_path / "dpe.pt", training=True).network.eval()
    folded = load_checkpoint(tmp_path / "dpe.pt").network
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    with torch.no_grad():
        expected, found = trained(images, images.flip(0), "pose"), folded(images, images.flip(0), "pose")
    assert torch.allclose(found, expected, atol=1e-3 * float(expected.abs().max()))


def test_roles_travel_in_the_metadata(tmp_path, weights):
    swapped = BranchRoles(expression="exp", pose="pose")
    save_checkpoint(tmp_path / "m.safetensors", weights, swapped, {"title": "t"})
    file = read_checkpoint(tmp_path / "m.safetensors")
    assert (file.roles, file.roles_stated, file.metadata["title"]) == (swapped, True, "t")


def test_converting_keeps_fingerprint_roles_and_values(tmp_path, weights):
    torch.save({"gen": weights}, tmp_path / "dpe.pt")
    before = read_checkpoint(tmp_path / "dpe.pt")
    half = convert_checkpoint(tmp_path / "dpe.pt", tmp_path / "half.safetensors", torch.float16)
    full = convert_checkpoint(tmp_path / "dpe.pt", tmp_path / "full.safetensors", torch.float32)
    assert before.fingerprint == half.fingerprint == full.fingerprint
    assert half.dtype == torch.float16
    assert all(torch.equal(full.tensors[n], weights[n]) for n in weights)
    assert half.roles == before.roles


def test_the_mean_of_two_models_of_one_training(tmp_path, weights):
    later = tiny_network(1).state_dict()
    save_checkpoint(tmp_path / "a.safetensors", weights, BranchRoles(), {"title": "a"})
    # As the published file, without the blur's constants.
    torch.save({n: t for n, t in later.items() if not n.endswith(".kernel")}, tmp_path / "b.pt")
    mean = convert_checkpoint(
        tmp_path / "a.safetensors", tmp_path / "m.safetensors", torch.float32, average_with=tmp_path / "b.pt"
    )
    assert mean.metadata["title"] == "a"
    assert all(torch.allclose(mean.tensors[n], (weights[n] + later[n]) / 2) for n in weights)


def test_models_that_have_no_mean(tmp_path, weights):
    save_checkpoint(tmp_path / "a.safetensors", weights, BranchRoles())
    save_checkpoint(tmp_path / "swapped.safetensors", weights, BranchRoles(expression="exp", pose="pose"))
    wide = NetworkConfig(16, 16, 3, {4: 4, 8: 4, 16: 5})
    save_checkpoint(tmp_path / "wide.safetensors", tiny_network(config=wide), BranchRoles())
    for name, words in (("swapped", "other roles"), ("wide", "same size and widths")):
        with pytest.raises(CheckpointError, match=words):
            convert_checkpoint(
                tmp_path / "a.safetensors", tmp_path / "m.safetensors", average_with=tmp_path / f"{name}.safetensors"
            )
    assert not (tmp_path / "m.safetensors").exists()


def test_another_model_has_another_fingerprint(tmp_path):
    for seed in (0, 1):
        save_checkpoint(tmp_path / f"{seed}.safetensors", tiny_network(seed), BranchRoles())
    assert len({read_checkpoint(tmp_path / f"{seed}.safetensors").fingerprint for seed in (0, 1)}) == 2


def test_an_inference_network_is_not_saved(tmp_path):
    with pytest.raises(CheckpointError, match="inference"):
        save_checkpoint(tmp_path / "m.safetensors", tiny_network().fold(), BranchRoles())


def test_roles_must_name_both_branches():
    with pytest.raises(CheckpointError, match="expected the branches"):
        BranchRoles(expression="pose", pose="pose")
    with pytest.raises(CheckpointError):
        replace(BranchRoles(), expression="head")


def refused(path, match):
    with pytest.raises(CheckpointError, match=match) as caught:
        load_checkpoint(path)
    assert path.name in str(caught.value)


def test_refuses_a_missing_file(tmp_path):
    refused(tmp_path / "none.pt", "no such model file")


@pytest.mark.parametrize("name", ["m.pt", "m.safetensors"])
@pytest.mark.parametrize("keep", [0, 5, 0.5, 0.99])
def test_refuses_truncated_files(tmp_path, weights, name, keep):
    whole, path = tmp_path / "whole", tmp_path / name
    torch.save({"gen": weights}, whole) if name.endswith("pt") else save_file(weights, whole)
    content = whole.read_bytes()
    path.write_bytes(content[: keep if isinstance(keep, int) else int(len(content) * keep)])
    refused(path, "truncated")


@pytest.fixture
def old_pytorch(monkeypatch):
    """PyTorch before 2.5, which cannot be told what is harmless."""
    monkeypatch.delattr(torch.serialization, "safe_globals")


def test_old_pytorch_opens_tensors(tmp_path, weights, old_pytorch):
    torch.save({"gen": weights}, tmp_path / "dpe.pt")
    assert load_checkpoint(tmp_path / "dpe.pt").config == CONFIG


def test_old_pytorch_is_named_where_it_is_too_old(tmp_path, weights, old_pytorch):
    path = tmp_path / "dpe.pt"
    torch.save({"gen": weights, "args": argparse.Namespace(size=16)}, path)
    refused(path, r"install PyTorch 2\.5 or newer")
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(path)
    assert "truncated" not in str(error.value)
    path.write_bytes(path.read_bytes()[:-20])
    refused(path, "truncated")
    path.write_text("<html>no</html>")
    refused(path, "download it again")


def test_refuses_code(tmp_path, weights):
    path = tmp_path / "evil.pt"
    torch.save({"gen": weights, "args": Exploit()}, path)
    refused(path, "cannot be read safely")
    path.write_bytes(pickle.dumps(Exploit()))
    refused(path, "cannot be read safely")


def test_refuses_other_content(tmp_path):
    path = tmp_path / "a.pt"
    path.write_text("hello, I am no model at all")
    refused(path, "expected")
    path.write_bytes(b"")
    refused(path, "expected")
    torch.save([1, 2], tmp_path / "list.pt")
    refused(tmp_path / "list.pt", "found list")
    torch.save({"epoch": 3}, tmp_path / "epoch.pt")
    refused(tmp_path / "epoch.pt", "epoch")


def test_refuses_another_model_by_name(tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({"unet.weight": torch.zeros(2)}, path)
    refused(path, "expected a DPE model")
    save_file({"dec.direction.weight": torch.zeros(2, 2), "enc.fc.0.weight": torch.zeros(2)}, path)
    refused(path, "LIA")


@pytest.mark.parametrize(
    "name", ["mlp_exp.1.bias", "dec_pose.convs.1.conv.weight", "enc.net_app.convs.1.conv2.1.weight"]
)
def test_refuses_missing_tensors(tmp_path, weights, name):
    del weights[name]
    save_file(weights, tmp_path / "m.safetensors")
    refused(tmp_path / "m.safetensors", name)


def test_refuses_extra_tensors(tmp_path, weights):
    weights["dec_third.weight"] = torch.zeros(1)
    save_file(weights, tmp_path / "m.safetensors")
    refused(tmp_path / "m.safetensors", "dec_third.weight")


@pytest.mark.parametrize("name", ["mlp.2.weight", "dec_exp.input.input", "dir.weight"])
def test_refuses_misshapen_tensors(tmp_path, weights, name):
    weights[name] = weights[name].flatten()
    save_file(weights, tmp_path / "m.safetensors")
    refused(tmp_path / "m.safetensors", "expected|shapes")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_refuses_non_finite_values(tmp_path, weights, value):
    weights["dec_exp.convs.0.conv.weight"].view(-1)[7] = value
    save_file(weights, tmp_path / "m.safetensors")
    refused(tmp_path / "m.safetensors", "dec_exp.convs.0.conv.weight holds 1 NaN")


def test_refuses_integers_and_other_blur_kernels(tmp_path, weights):
    kernels = dict(weights)
    name = next(n for n in weights if n.endswith(".kernel"))
    kernels[name] = torch.ones_like(weights[name])
    save_file(kernels, tmp_path / "k.safetensors")
    refused(tmp_path / "k.safetensors", "blur kernel")
    weights["mlp.0.bias"] = torch.zeros(8, dtype=torch.int32)
    save_file(weights, tmp_path / "m.safetensors")
    refused(tmp_path / "m.safetensors", "floating point")


def test_refuses_unreadable_roles(tmp_path, weights):
    save_file(weights, tmp_path / "m.safetensors", metadata={"roles": "{nonsense"})
    refused(tmp_path / "m.safetensors", "roles")


def test_an_unwritable_place_is_said(tmp_path, weights):
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match="cannot be written"):
        save_checkpoint(tmp_path / "file" / "m.safetensors", weights, BranchRoles())


@pytest.mark.parametrize("text", ["error: quota exceeded", "access denied", "too many requests", "<html>no</html>", ""])
def test_refuses_what_a_failed_download_leaves(tmp_path, text):
    path = tmp_path / "dpe.pt"
    path.write_text(text)
    refused(path, "download it again")
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(path)
    assert "weights_only" not in str(error.value)
