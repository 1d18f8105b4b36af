"""The bidirectional cycle: the six pictures the published losses compare.

Names follow the checkpoint: `pose` and `exp` are branches. Which of them moves the head the losses here do not say;
they are symmetric under exchanging the two.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..network import DPENetwork, Encoding


@dataclass(frozen=True)
class CycleImages:
    """What the cycle makes of pictures A and B of one person, each [N, 3, S, S] float32, about -1..1.

    Writing P(x, y) for x with branch `pose` driven by y, E likewise with branch `exp`:

    Attributes:
        pose_halfway: P(A, B), A on its way to B.
        pose_exp_end: E(P(A, B), B), to equal B.
        exp_halfway: E(B, A), B on its way to A; to equal `pose_halfway`.
        exp_pose_end: P(E(B, A), A), to equal A.
        self_pose: P(A, A), to equal A.
        self_exp: E(A, A), to equal A.
    """

    pose_halfway: Tensor
    pose_exp_end: Tensor
    exp_halfway: Tensor
    exp_pose_end: Tensor
    self_pose: Tensor
    self_exp: Tensor


def select(encoding: Encoding, index: slice) -> Encoding:
    """Some pictures of an encoding."""
    return Encoding(encoding.w[index], tuple(f[index] for f in encoding.features))


def join(first: Encoding, second: Encoding) -> Encoding:
    """Encodings of two batches as one."""
    pairs = zip(first.features, second.features, strict=True)
    return Encoding(torch.cat((first.w, second.w)), tuple(torch.cat(p) for p in pairs))


def run_cycle(network: DPENetwork, a: Tensor, b: Tensor) -> CycleImages:
    """The six pictures of A and B [N, 3, S, S] in -1..1; each is encoded once, renders of a branch share a batch."""
    n = len(a)
    encoded = network.encode(torch.cat((a, b)))
    enc_a, enc_b = select(encoded, slice(0, n)), select(encoded, slice(n, None))
    alpha = network.motion(encoded.w)
    alpha_a, alpha_b = alpha[:n], alpha[n:]

    pose_halfway, self_pose = network.render(join(enc_a, enc_a), torch.cat((alpha_b, alpha_a)), "pose").split(n)
    exp_halfway, self_exp = network.render(join(enc_b, enc_a), torch.cat((alpha_a, alpha_a)), "exp").split(n)

    halfway = network.encode(torch.cat((pose_halfway, exp_halfway)))
    pose_exp_end = network.render(select(halfway, slice(0, n)), alpha_b, "exp")
    exp_pose_end = network.render(select(halfway, slice(n, None)), alpha_a, "pose")
    return CycleImages(pose_halfway, pose_exp_end, exp_halfway, exp_pose_end, self_pose, self_exp)
