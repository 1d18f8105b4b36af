"""The engine, from uint8 frames to frames, against the published implementation's pictures."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from dpe_model import Edit, Engine, load_checkpoint

from .weights import DATA, manifest, state_dict


@pytest.fixture(scope="module")
def golden():
    return load_file(DATA / "generator_256_seed0.safetensors")


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "drawn.safetensors"
    save_file(state_dict(manifest("generator_256_cm1")), path)
    return Engine(load_checkpoint(path))


def assert_frames_agree(chunks, expected):
    found = torch.cat(list(chunks)).permute(0, 3, 1, 2)[:, :, ::2, ::2] * 2 - 1
    error = (found - expected.clamp(-1, 1)).abs()
    assert float(error.mean()) < 1e-3
    assert float(error.max()) < 3e-2


@pytest.mark.parametrize(
    ("roles", "name"),
    [(("expression",), "edit_exp"), (("pose",), "edit_pose"), (("expression", "pose"), "edit_both")],
)
def test_moving_source(engine, golden, roles, name):
    driver = Edit(engine.encode(golden["driving_rgb"]).motion)
    latent = engine.encode(golden["source_rgb"])
    for role in roles:
        latent = latent.with_edit(role, driver)
    assert_frames_agree(engine.render(latent, *roles), golden[name])


def test_still_source_with_two_drivers(engine, golden):
    latent = engine.encode(golden["source_rgb"][:1])
    latent = latent.with_edit("expression", Edit(engine.encode(golden["driving_rgb"]).motion))
    latent = latent.with_edit("pose", Edit(engine.encode(golden["driving_rgb"].flip(0)).motion))
    assert_frames_agree(engine.render(latent, "expression", "pose"), golden["oneshot_exp_then_pose"])
