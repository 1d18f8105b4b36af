"""Motion directions that tell nothing, and what they are filled with."""

import pytest
import torch

from dpe_model.errors import DPEError
from dpe_model.network import DPENetwork, NetworkConfig
from dpe_model.training.config import ConfigError, config_from
from dpe_model.training.idle_motion import fill_idle_motion
from dpe_model.training.regression import ParameterHeads, start_motion

from .test_training_motion import run

CONFIG = NetworkConfig(16, 24, 12, {4: 8, 8: 8, 16: 8})
POSE, EXPRESSION = 4, 8
TOLD = 3
"""How many of the expression's directions tell something at first."""


def listening(told: int = TOLD) -> tuple[DPENetwork, ParameterHeads, torch.Tensor, torch.Tensor]:
    """A network whose branches hear the pose and some of an expression of so many independent numbers.

    Returns:
        The network, heads fitted to its codes, codes of pictures, and what is known of those.
    """
    torch.manual_seed(0)
    network, heads = DPENetwork(CONFIG), ParameterHeads(24, POSE, EXPRESSION, 2)
    w = torch.randn(600, 24) @ torch.randn(24, 24)
    with torch.no_grad():
        start_motion(network, heads, w, "pose")
        # Heads are random: what they say is the truth.
        known = torch.cat(heads.read(w), 1)
        silenced = network.mlp[-1]
        silenced.weight[POSE + told :] = 0.0
        silenced.bias[POSE + told :] = 0.0
    fit(network, heads, w, known)
    return network, heads, w, known


def codes(network, w):
    with torch.no_grad():
        alpha = network.motion(w)
        return alpha, network.branch_code(alpha, "pose"), network.branch_code(alpha, "exp")


def fit(network, heads, w, known):
    heads.fit(w, *codes(network, w)[1:], known)


def unexplained(heads, code, known):
    """Share of the expression's variance that the code does not tell."""
    with torch.no_grad():
        left = heads.expression(code) - known[:, POSE : POSE + EXPRESSION]
    return float(left.var(0).sum() / known[:, POSE : POSE + EXPRESSION].var(0).sum())


def test_idle_directions_tell_what_was_left_out():
    network, heads, w, known = listening()
    assert unexplained(heads, codes(network, w)[2], known) > 0.1
    assert fill_idle_motion(network, heads, w, "pose") == CONFIG.motion_dim - POSE - TOLD
    fit(network, heads, w, known)
    alpha, _, code = codes(network, w)
    assert unexplained(heads, code, known) < 0.01
    assert torch.allclose(alpha.var(0), torch.ones(CONFIG.motion_dim), atol=1e-2)


def test_what_the_branches_heard_stays():
    network, heads, w, _ = listening()
    _, pose, expression = codes(network, w)
    fill_idle_motion(network, heads, w, "pose")
    _, still, fuller = codes(network, w)
    assert torch.allclose(still, pose, atol=1e-3 * float(pose.abs().max()))
    # What came is apart from what was there: along the old code's directions nothing changed.
    _, sizes, heard = torch.linalg.svd(expression - expression.mean(0), full_matrices=False)
    span = heard[sizes > 1e-3 * sizes[0]]
    assert len(span) == TOLD
    assert torch.allclose((fuller - expression) @ span.T, torch.zeros(len(w), TOLD), atol=1e-4 * float(sizes[0]))
    assert (fuller - expression).norm() > 0.1 * (expression - expression.mean(0)).norm()


def test_the_branches_may_have_the_other_names():
    network, heads, w, known = listening()
    network.mlp_pose, network.mlp_exp = network.mlp_exp, network.mlp_pose
    assert fill_idle_motion(network, heads, w, "exp") == CONFIG.motion_dim - POSE - TOLD
    _, expression, pose = codes(network, w)
    heads.fit(w, pose, expression, known)
    assert unexplained(heads, expression, known) < 0.01


def test_where_nothing_is_idle_or_left_out_codes_stay():
    for told, motionless in ((EXPRESSION, False), (TOLD, True)):
        network, heads, w, _ = listening(told)
        if motionless:  # nothing more is known of an expression than the code tells
            with torch.no_grad():
                matrix = heads.expression.effective_weight() @ torch.linalg.multi_dot(
                    [layer.effective_weight() for layer in reversed(network.mlp_exp)]
                ) @ network.basis() @ network.mlp[-1].effective_weight()  # fmt: skip
                heads.picture.weight[POSE : POSE + EXPRESSION] = matrix / heads.picture.scale
        before = codes(network, w)[1:]
        assert fill_idle_motion(network, heads, w, "pose") == 0
        for was, now in zip(before, codes(network, w)[1:], strict=True):
            assert torch.allclose(now, was, atol=1e-3 * float(was.abs().max()))


def test_filling_asks_for_pictures():
    network, heads, w, _ = listening()
    with pytest.raises(DPEError, match="more than 24 pictures"):
        fill_idle_motion(network, heads, w[:20], "pose")


@pytest.mark.parametrize("first", [True, False])
def test_idle_motion_is_filled_as_its_stage_begins(tmp_path, monkeypatch, first):
    """In a run's first stage, and in a later one."""
    fill = {"size": 16, "steps": 1, "batch": 4, "branch": "exp", "fill_motion": True}
    stages = [fill] if first else [{"size": 16, "steps": 1, "batch": 4}, fill]
    trainer = run(tmp_path, monkeypatch, stages=stages)
    with torch.no_grad():
        trainer.network.mlp[-1].weight[6:] = 0.0
        trainer.network.mlp[-1].bias[6:] = 0.0
    trainer.run()
    made, averaged = trainer.network.mlp[-1].weight, trainer.ema.mlp[-1].weight
    assert (made[6:].abs().amax(1) > 0.0).any()
    assert torch.equal(made, averaged)  # the stage itself trains the generator alone


def test_motion_is_filled_for_rendered_heads_alone():
    heads = {"kind": "synthetic", "path": "heads"}
    for stage, source in (({"phase": "motion"}, heads), ({}, {"kind": "clips", "path": "clips"})):
        with pytest.raises(ConfigError, match="fill_motion in an edit or flow stage"):
            config_from({"stages": [{"size": 16, "fill_motion": True, **stage}], "sources": [source]})
