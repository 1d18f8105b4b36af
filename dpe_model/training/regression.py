"""Regression heads: what the encoder's code says of a picture, and how motion editing starts out from that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from ..errors import DPEError
from ..network import Branch, DPENetwork
from ..network.layers import EqualLinear
from .data import EXPRESSION_DIM, LANDMARK_DIM, POSE_DIM

CODE_SPREAD = 3.0
"""Standard deviation of each component of a fresh branch code, in those of `w`: loud enough to be heard beside it."""
RIDGE = 1e-3
"""Regularisation of fitted heads, in mean variances of a code's components."""
SMALLEST_SPREAD = 0.02
"""Components of the predicted expression that vary less than this, relative to the first, are not told apart."""


class ParameterHeads(nn.Module):
    """Reads what is known of rendered heads off the codes by one linear layer each.

    `picture` reads pose, expression and landmarks off `w`; `pose` and `expression` read them off the branches' codes.
    They teach the encoder what motion is; they are the trainer's, not the checkpoint's.
    """

    def __init__(
        self,
        style_dim: int,
        pose_dim: int = POSE_DIM,
        expression_dim: int = EXPRESSION_DIM,
        landmark_dim: int = LANDMARK_DIM,
    ) -> None:
        super().__init__()
        self.dims = (pose_dim, expression_dim, landmark_dim)
        self.picture = EqualLinear(style_dim, sum(self.dims))
        self.pose = EqualLinear(style_dim, pose_dim)
        self.expression = EqualLinear(style_dim, expression_dim)

    def read(self, w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Codes `w` [N, style_dim] -> pose, expression, landmarks [N, ...]."""
        pose, expression, landmarks = self.picture(w).split(self.dims, 1)
        return pose, expression, landmarks

    def centre(self, targets: Tensor) -> None:
        """Start the picture head at the mean of `targets` [N, pose + expression + landmarks]."""
        with torch.no_grad():
            self.picture.bias.copy_(targets.mean(0))

    def fit(self, w: Tensor, pose_codes: Tensor, expression_codes: Tensor, truths: Tensor) -> None:
        """Set all heads to what fits best, as they should be where the codes are a trained network's.

        Args:
            w, pose_codes, expression_codes: codes of pictures [N, style_dim], some thousands.
            truths: [N, pose + expression + landmarks].
        """
        pose, expression, _ = truths.split(self.dims, 1)
        with torch.no_grad():
            _set_layer(self.picture, *_ridge(w, truths))
            _set_layer(self.pose, *_ridge(pose_codes, pose))
            _set_layer(self.expression, *_ridge(expression_codes, expression))


@dataclass(frozen=True)
class MotionStart:
    """How motion editing starts out.

    Attributes:
        readout: matrix [motion_dim, style_dim] and offset [motion_dim] of `w -> alpha`, about unit variance each.
        pose_dim: the first so many of alpha are the pose, the others the expression.
        directions: orthonormal [style_dim, motion_dim], where the codes put them; times `spread`.
        expression: matrix [expression_dim, motion_dim - pose_dim] and offset [expression_dim]: parameters from alpha.
    """

    readout: tuple[Tensor, Tensor]
    pose_dim: int
    directions: Tensor
    spread: float
    expression: tuple[Tensor, Tensor]


def plan_motion(heads: ParameterHeads, w: Tensor, motion_dim: int) -> MotionStart:
    """Work out motion editing from a trained picture head.

    Alpha becomes the pose parameters and the principal components of the predicted expression, whitened. The codes
    carry them along the directions in which `w` itself varies least, so that a generator hears both in the sum.

    Args:
        heads: with a trained `picture` head.
        w: codes of pictures [N, style_dim], some hundreds.
        motion_dim: length of alpha.

    Raises:
        DPEError: no room for an expression, or nothing learned yet.
    """
    pose_dim, expression_dim, _ = heads.dims
    parts = motion_dim - pose_dim
    if parts < 1 or len(w) < motion_dim:
        raise DPEError(
            f"motion: expected more than {pose_dim} motion directions and at least {motion_dim} pictures to start "
            f"from, got {motion_dim} and {len(w)}."
        )
    matrix, offset = heads.picture.effective_weight().detach().double(), heads.picture.bias.detach().double()
    codes = w.detach().double()
    rows, shift = matrix[pose_dim : pose_dim + expression_dim], offset[pose_dim : pose_dim + expression_dim]
    predicted = codes @ rows.T + shift
    mean = predicted.mean(0)
    _, spreads, components = torch.linalg.svd(predicted - mean, full_matrices=False)
    spreads = spreads / len(codes) ** 0.5
    if not float(spreads[0]) > 0.0:
        raise DPEError("motion: the picture head predicts the same expression for all pictures. Train it for longer.")
    spreads = spreads[:parts].clamp_min(SMALLEST_SPREAD * float(spreads[0]))
    components = components[:parts]
    readout = torch.cat((matrix[:pose_dim], components @ rows / spreads[:, None]))
    start = torch.cat((offset[:pose_dim], components @ (shift - mean) / spreads))
    # Eigenvectors come by ascending variance.
    variances, directions = torch.linalg.eigh(torch.cov(codes.T))
    spread = CODE_SPREAD * float(variances.clamp_min(0.0).mean().sqrt())
    return MotionStart(
        (readout, start), pose_dim, directions[:, :motion_dim], spread, ((components * spreads[:, None]).T, mean)
    )


def start_motion(network: DPENetwork, heads: ParameterHeads, w: Tensor, pose_branch: Branch) -> None:
    """Set motion editing, and the heads behind it, to what `plan_motion` works out.

    The branches then carry pose and expression apart from the start, and training goes on from there.
    """
    plan = plan_motion(heads, w, network.config.motion_dim)
    basis, cut = network.basis().detach().double(), plan.pose_dim
    pose, expression = plan.directions[:, :cut] * plan.spread, plan.directions[:, cut:] * plan.spread
    with torch.no_grad():
        set_stack(network.mlp, *plan.readout)
        for branch, lift, part in (
            (pose_branch, pose, basis[:, :cut]),
            (other_branch(pose_branch), expression, basis[:, cut:]),
        ):
            stack = network.mlp_pose if branch == "pose" else network.mlp_exp
            set_stack(stack, lift @ part.T, lift.new_zeros(len(lift)))
        _set_layer(heads.pose, plan.directions[:, :cut].T / plan.spread, pose.new_zeros(cut))
        matrix, offset = plan.expression
        _set_layer(heads.expression, matrix @ plan.directions[:, cut:].T / plan.spread, offset)


def _ridge(codes: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Matrix [out, in] and offset [out] of the ridge regression of `wanted` [N, out] from `codes` [N, in], float64."""
    x, y = codes.double(), wanted.double()
    centre, mean = x.mean(0), y.mean(0)
    x, y = x - centre, y - mean
    covariance = x.T @ x / len(x)
    covariance.diagonal().add_(RIDGE * float(covariance.trace()) / len(covariance))
    matrix = torch.linalg.solve(covariance, x.T @ y / len(x)).T
    return matrix, mean - matrix @ centre


def other_branch(branch: Branch) -> Branch:
    """`exp` of `pose`, and the reverse."""
    return "exp" if branch == "pose" else "pose"


def set_stack(stack: nn.Sequential, matrix: Tensor, offset: Tensor) -> None:
    """Make a stack of linear layers the map `matrix`, `offset`: identities, and the map last."""
    layers = [cast(EqualLinear, layer) for layer in stack]
    for layer in layers[:-1]:
        side = layer.weight.shape[0]
        _set_layer(layer, torch.eye(side, dtype=torch.float64), torch.zeros(side, dtype=torch.float64))
    _set_layer(layers[-1], matrix, offset)


def _set_layer(layer: EqualLinear, matrix: Tensor, offset: Tensor) -> None:
    layer.weight.copy_(matrix / layer.scale)
    layer.bias.copy_(offset)
