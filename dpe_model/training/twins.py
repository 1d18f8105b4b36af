"""Teaching an encoder to see the same motion behind whatever eyes people have.

Of a picture it is to tell what its teacher, the network it starts from, tells of the picture's twin, which shows the
head model's own eyes instead. Motion editing and generators stay as they are, so what they are handed must go on
meaning the same: the features are to be the teacher's of the picture itself, and so is all of the code `w` that no
motion is read from.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..network import BRANCHES, Branch, DPENetwork
from .config import TwinWeights
from .data import TwinBatch
from .reading import feature_difference, huber
from .regression import ParameterHeads

KEPT_LAYERS = 2
"""Layers of the encoder that are not taught: they hold a picture's finest detail, and most of the work."""
PLAIN_SHARE = 3
"""One twin for so many pictures is looked at as well: what was told rightly is to stay."""
SMALLEST_SPREAD = 0.03
"""Components of a branch's code that vary less than this, relative to the first, are not told apart."""


def teach_encoder(network: DPENetwork) -> None:
    """Let gradients reach the encoder behind its first layers alone."""
    network.requires_grad_(False)
    for layer in network.enc.net_app.convs[KEPT_LAYERS:]:
        layer.requires_grad_(True)


class TwinTeacher(nn.Module):
    """The teacher's answers, and the losses against them.

    Buffers `pose` and `exp` [style_dim, motion_dim]: what brings each branch's code to about unit variance in the
    components it varies in. `variance` []: of `w`, all components together.

    Args:
        teacher: the network to agree with; it is no part of this module.
        weights: of the losses.
    """

    def __init__(self, teacher: DPENetwork, weights: TwinWeights) -> None:
        super().__init__()
        self.weights = weights
        # In a tuple, so that its weights are no part of this module.
        self.frozen = (teacher.requires_grad_(False),)
        config = teacher.config
        for branch in BRANCHES:
            self.register_buffer(branch, torch.zeros(config.style_dim, config.motion_dim))
        unit = torch.eye(config.style_dim, device=next(teacher.parameters()).device)
        with torch.no_grad():
            slope = teacher.motion(unit) - teacher.motion(torch.zeros_like(unit[:1]))
        self.register_buffer("back", torch.linalg.pinv(slope))
        self.register_buffer("variance", torch.ones(()))

    @property
    def teacher(self) -> DPENetwork:
        """The network to agree with."""
        return self.frozen[0]

    def measure(self, w: Tensor) -> None:
        """Measure how the codes vary over pictures: `w` [N, style_dim] of some hundreds, the teacher's."""
        self.get_buffer("variance").copy_(w.var(0).sum())
        alpha = self.teacher.motion(w)
        for branch in BRANCHES:
            codes = self.teacher.branch_code(alpha, branch).double()
            _, spreads, components = torch.linalg.svd(codes - codes.mean(0), full_matrices=False)
            spreads = spreads / len(codes) ** 0.5
            count = min(int((spreads > SMALLEST_SPREAD * spreads[0]).sum()), self.teacher.config.motion_dim)
            scale = self.get_buffer(branch)
            scale.zero_()
            scale[:, :count] = (components[:count].T / spreads[:count]).to(scale.dtype)

    def with_motion(self, w: Tensor, alpha: Tensor) -> Tensor:
        """The code nearest to `w` [N, style_dim] of which the teacher tells the motion `alpha` [N, motion_dim]."""
        return w + (alpha - self.teacher.motion(w)) @ self.get_buffer("back")

    def losses(
        self, network: DPENetwork, heads: ParameterHeads, batch: TwinBatch, exp_branch: Branch
    ) -> dict[str, Tensor]:
        """Weighted losses by name.

        Args:
            network: what is taught; its motion editing is the teacher's.
            heads: read the expression off the teacher's codes.
            batch: pictures and their twins.
            exp_branch: the branch that edits the expression.
        """
        extra = len(batch) // PLAIN_SHARE
        pictures = torch.cat((batch.picture, batch.plain[:extra]))
        with torch.no_grad():
            seen = self.teacher.encode(pictures)
            plain = self.teacher.encode(batch.plain, with_features=False).w
            twin = torch.cat((plain, plain[:extra]))
            told = self.teacher.motion(twin)
            wanted = self.with_motion(seen.w, told)
        own = network.encode(pictures)
        alpha, weights = network.motion(own.w), self.weights
        terms: dict[str, Tensor] = {}
        for branch in BRANCHES:
            apart = network.branch_code(alpha, branch) - self.teacher.branch_code(told, branch)
            scaled = apart @ self.get_buffer(branch)
            terms[f"{branch}_code"] = weights.code * huber(scaled, torch.zeros_like(scaled))
        terms["w"] = weights.w * (own.w - wanted).square().sum(1).mean() / self.get_buffer("variance")
        truths = torch.cat((batch.expression, batch.expression[:extra]))
        terms["reading"] = weights.reading * huber(_read(heads, network.branch_code(alpha, exp_branch)), truths)
        terms["features"] = weights.features * feature_difference(own.features, seen.features)
        return terms


def _read(heads: ParameterHeads, codes: Tensor) -> Tensor:
    """The expression as read off codes [N, style_dim]; only the codes are taught."""
    layer = heads.expression
    return F.linear(codes, layer.effective_weight().detach(), layer.bias.detach())
