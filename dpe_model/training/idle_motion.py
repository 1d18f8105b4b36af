"""Motion directions that tell nothing are given what the codes leave out.

Directions are set up once, for what an encoder tells at that time (`regression.plan_motion`). Those that carried
nothing then carry nothing ever: through a stack of linear layers hardly a gradient reaches a product of weights that
are all but zero. What the encoder has learned to see since, as that one lid is lower than the other, then never gets to
a generator.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import DPEError
from ..network import BRANCHES, Branch, DPENetwork
from ..network.motion_editing import collapse
from .regression import ParameterHeads, other_branch, set_stack

IDLE = 0.03
"""Motion that moves the branches' codes less than this, relative to the strongest, is idle."""
LOUDNESS = 1.0
"""Spread of a code along each filled direction, relative to the mean spread along those that it has: a generator is
startled by what it never heard."""
SMALLEST_NEWS = 1e-4
"""Variance of what a direction could tell, of that of all that is known, below which it is left idle."""


@dataclass(frozen=True)
class _Editing:
    """Motion editing as affine maps from `w`, all float64.

    Attributes:
        readout: [motion_dim, style_dim] and offset [motion_dim], `w -> alpha`.
        codes: by branch [style_dim, motion_dim] and offset [style_dim], `alpha -> code`.
    """

    readout: tuple[Tensor, Tensor]
    codes: dict[Branch, tuple[Tensor, Tensor]]

    @classmethod
    def of(cls, network: DPENetwork) -> _Editing:
        basis = network.basis().detach().double()
        maps = {branch: collapse(stack) for branch, stack in _stacks(network).items()}
        return cls(collapse(network.mlp), {branch: (m @ basis, offset) for branch, (m, offset) in maps.items()})

    def write(self, network: DPENetwork) -> None:
        basis = network.basis().detach().double()
        with torch.no_grad():
            set_stack(network.mlp, *self.readout)
            for branch, stack in _stacks(network).items():
                matrix, offset = self.codes[branch]
                set_stack(stack, matrix @ basis.T, offset)


def _stacks(network: DPENetwork) -> dict[Branch, nn.Sequential]:
    return {"pose": network.mlp_pose, "exp": network.mlp_exp}


def fill_idle_motion(network: DPENetwork, heads: ParameterHeads, w: Tensor, pose_branch: Branch) -> int:
    """Let idle motion directions tell the expression branch what it does not hear yet.

    What both branches' codes told stays, but for what is below `IDLE`. Alpha changes its meaning: its first numbers are
    what both codes told, its last ones what was filled in, all with unit variance.

    Args:
        network: in its training form.
        heads: `picture` tells pose, expression and landmarks of codes `w`; see `ParameterHeads.fit`.
        w: codes of pictures [N, style_dim], some thousands.
        pose_branch: the branch that edits the pose.

    Returns:
        How many directions were filled.

    Raises:
        DPEError: too few pictures.
    """
    motion_dim, exp_branch = network.config.motion_dim, other_branch(pose_branch)
    if len(w) <= w.shape[1]:
        raise DPEError(f"fill_motion: expected more than {w.shape[1]} pictures to tell what is idle, got {len(w)}.")
    editing, codes = _Editing.of(network), w.detach().double()
    mean, covariance = codes.mean(0), torch.cov(codes.T)
    kept, lifts = _heard(editing, covariance, *BRANCHES)
    told, _ = _heard(editing, covariance, exp_branch)
    news = _news(heads, covariance, told, motion_dim - len(kept))
    fresh = _unheard(covariance, torch.cat(list(lifts.values()), 1), len(news))
    loudness = LOUDNESS * (lifts[exp_branch].square().sum() / len(kept)).sqrt()
    silent = mean.new_zeros(len(mean), motion_dim - len(kept) - len(news))
    centre = editing.readout[0] @ mean + editing.readout[1]
    filled: dict[Branch, tuple[Tensor, Tensor]] = {}
    for branch, lift in lifts.items():
        added = fresh * (loudness if branch == exp_branch else 0.0)
        matrix, offset = editing.codes[branch]
        filled[branch] = (torch.cat((lift, added, silent), 1), matrix @ centre + offset)
    rows = torch.cat((kept, news, silent.T))
    _Editing((rows, -rows @ mean), filled).write(network)
    return len(news)


def _heard(editing: _Editing, covariance: Tensor, *branches: Branch) -> tuple[Tensor, dict[Branch, Tensor]]:
    """What the codes of some branches tell, taken together.

    Returns:
        Rows [K, style_dim] that read it off `w`, with unit variance and uncorrelated; and by branch the columns
        [style_dim, K] by which it moves the code.
    """
    maps = {branch: editing.codes[branch][0] @ editing.readout[0] for branch in branches}
    sizes = {branch: (m @ covariance @ m.T).trace().sqrt() for branch, m in maps.items()}
    stacked = torch.cat([m / sizes[branch] for branch, m in maps.items()])
    # Eigenvectors come by ascending variance.
    variances, vectors = torch.linalg.eigh(stacked @ covariance @ stacked.T)
    spreads = variances.clamp_min(0.0).sqrt()
    loud = spreads > IDLE * spreads[-1]
    spreads, vectors = spreads[loud].flip(0), vectors[:, loud].flip(1)
    parts = zip(maps, vectors.split(len(covariance)), strict=True)
    return vectors.T @ stacked / spreads[:, None], {b: part * spreads * sizes[b] for b, part in parts}


def _news(heads: ParameterHeads, covariance: Tensor, told: Tensor, room: int) -> Tensor:
    """Rows [<= room, style_dim] that read off `w` what is known of an expression and not `told` [K, style_dim].

    Principal components of what is left of the predicted expression, with unit variance. What the pose's code tells is
    not told: where eyes look goes with the head, and the expression's branch hears nothing of that.
    """
    pose_dim, expression_dim, _ = heads.dims
    rows = heads.picture.effective_weight().detach().double()[pose_dim : pose_dim + expression_dim]
    left = rows - (rows @ covariance @ told.T) @ told
    variances, vectors = torch.linalg.eigh(left @ covariance @ left.T)
    whole = (rows @ covariance @ rows.T).trace()
    variances, vectors = variances.flip(0)[:room], vectors.flip(1)[:, :room]
    worth = variances > SMALLEST_NEWS * whole
    return (vectors.T @ left / variances.clamp_min(1e-30).sqrt()[:, None])[worth]


def _unheard(covariance: Tensor, heard: Tensor, count: int) -> Tensor:
    """Orthonormal columns [style_dim, count] apart from `heard` [style_dim, K], along which `w` varies least."""
    basis, spreads, _ = torch.linalg.svd(heard, full_matrices=False)
    basis = basis[:, spreads > 1e-6 * spreads[0]]
    apart = torch.eye(len(covariance)).to(covariance) - basis @ basis.T
    blocked = apart @ covariance @ apart + covariance.trace() * basis @ basis.T
    return torch.linalg.eigh(blocked).eigenvectors[:, :count]
