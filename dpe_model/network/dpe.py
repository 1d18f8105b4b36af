"""The whole network: encoder, motion editing, and a generator for each branch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .compiled import CompiledPasses, Compiler, inductor
from .config import BRANCHES, Branch, NetworkConfig
from .cpu import CPUNetwork
from .encoder import Encoder, Encoding, expand_encoding
from .generator import Generator
from .layers import ConvWeight, EqualConv, EqualLinear, Folding, ModulatedConv
from .motion_editing import CollapsedMotion, Direction, linear_stack


class DPENetwork(nn.Module):
    """The published network, its parameters under the names of the released checkpoint.

    As constructed it trains. `fold()` turns it, once and for good, into its inference form: same function, constants
    multiplied in, motion editing collapsed to matrices.
    """

    collapsed: CollapsedMotion | None

    def __init__(self, config: NetworkConfig | None = None) -> None:
        super().__init__()
        self.config = config or NetworkConfig()
        style, motion = self.config.style_dim, self.config.motion_dim
        self.enc = Encoder(self.config)
        self.dec_pose = Generator(self.config)
        self.dec_exp = Generator(self.config)
        self.mlp = linear_stack(style, style, style, style, style, motion)
        self.dir = Direction(style, motion)
        self.mlp_pose = linear_stack(style, style, style, style)
        self.mlp_exp = linear_stack(style, style, style, style)
        self.collapsed = None
        self._cpu: CPUNetwork | None = None
        self._compiled: CompiledPasses | None = None

    @property
    def folded(self) -> bool:
        """Whether the network is in its inference form."""
        return self.collapsed is not None

    @property
    def compute_dtype(self) -> torch.dtype:
        """The dtype of the convolutions."""
        return self.dec_pose.conv1.conv.weight.dtype

    def fold(self, dtype: torch.dtype = torch.float32) -> DPENetwork:
        """Turn into the inference form, convolutions in `dtype`; styles, demodulation, flow and RGB sums stay float32.

        Returns:
            The network itself.
        """
        if not self.folded:
            self.collapsed = CollapsedMotion.of(self.mlp, self.dir, {b: self._branch_mlp(b) for b in BRANCHES})
            for module in self.modules():
                if isinstance(module, Folding):
                    module.fold()
            self.requires_grad_(False).eval()
        self._cpu = None
        self._cast_convolutions(dtype)
        if dtype != torch.float32:
            self._to_channels_last()
        return self

    def compile_passes(self, compiler: Compiler = inductor) -> None:
        """Have the passes of a folded network compiled when they are next made on a CUDA device.

        CPUs run a form of their own, and gradients are taken through the plain one.
        """
        self._compiled = CompiledPasses(self.enc, {b: self.generator(b) for b in BRANCHES}, compiler)

    def _to_channels_last(self) -> None:
        """Keep the channels of a pixel side by side: two to three times faster on CPUs in half precision.

        Not in float32, where the other order of summation costs some of the agreement with the published numbers.
        """
        self.enc.channels_last = True
        for module in self.modules():
            if isinstance(module, ModulatedConv):
                module.to_channels_last()
            elif isinstance(module, ConvWeight | EqualConv):
                module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)

    def _cast_convolutions(self, dtype: torch.dtype) -> None:
        full_precision = {id(p) for m in self.modules() if isinstance(m, EqualLinear) for p in m.parameters()}
        for part in (self.enc, self.dec_pose, self.dec_exp):
            for name, parameter in part.named_parameters():
                heads_bias = name.endswith(".bias") and ("to_rgbs" in name or "to_flows" in name) and "conv" not in name
                if id(parameter) not in full_precision and not heads_bias:
                    parameter.data = parameter.data.to(dtype)

    def _branch_mlp(self, branch: Branch) -> nn.Sequential:
        return self.mlp_pose if branch == "pose" else self.mlp_exp

    def generator(self, branch: Branch) -> Generator:
        """The generator of a branch."""
        return self.dec_pose if branch == "pose" else self.dec_exp

    def encode(self, images: Tensor, with_features: bool = True) -> Encoding:
        """Pictures [N, 3, S, S] in -1..1 -> code `w` [N, style_dim] and, if asked for, features."""
        if (cpu := self._on_cpu(images)) is not None:
            return cpu.encode(images, with_features)
        if (compiled := self._on_gpu(images)) is not None:
            return compiled.encode(images, with_features)
        return self.enc(images, with_features)

    def motion(self, w: Tensor) -> Tensor:
        """Code `w` [N, style_dim] -> motion `alpha` [N, motion_dim]."""
        return self.mlp(w) if self.collapsed is None else self.collapsed.apply_map("motion", w)

    def basis(self) -> Tensor:
        """Q [style_dim, motion_dim], orthonormal columns: the motion of a frame is Q @ alpha."""
        return self.dir.basis() if self.collapsed is None else self.collapsed.get_buffer("basis")

    def branch_code(self, alpha: Tensor, branch: Branch) -> Tensor:
        """Motion `alpha` [N, motion_dim] -> the branch's code [N, style_dim], to be added to a source's `w`."""
        if self.collapsed is None:
            return self._branch_mlp(branch)(alpha @ self.basis().T)
        return self.collapsed.apply_map(branch, alpha)

    def render(self, source: Encoding, alpha: Tensor, branch: Branch) -> Tensor:
        """Render `source` under the motion `alpha` through one branch.

        Args:
            source: encoding of N pictures, or of one that stands for all.
            alpha: [N, motion_dim].
            branch: which generator, by its checkpoint name.

        Returns:
            Pictures [N, 3, S, S] float32, about -1..1, not clamped.
        """
        z = source.w + self.branch_code(alpha, branch)
        if (cpu := self._on_cpu(z)) is not None:
            return cpu.render(z, source.features, branch)
        features = expand_encoding(source, len(z)).features
        if (compiled := self._on_gpu(z)) is not None:
            return compiled.render(z, features, branch)
        pictures: Tensor = self.generator(branch)(z, features)
        return pictures

    def _on_cpu(self, x: Tensor) -> CPUNetwork | None:
        """The network as CPUs run it, for an input on the CPU and where no gradients are wanted."""
        if not self.folded or x.device.type != "cpu" or torch.is_grad_enabled():
            return None
        if self._cpu is None:
            self._cpu = CPUNetwork(self.enc, {b: self.generator(b) for b in BRANCHES})
        return self._cpu

    def _on_gpu(self, x: Tensor) -> CompiledPasses | None:
        """The compiled passes, where there are any, for an input on a CUDA device and where no gradients are wanted."""
        return self._compiled if x.device.type == "cuda" and not torch.is_grad_enabled() else None

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> DPENetwork:
        self._cpu = None  # moved or cast weights are others
        return super()._apply(fn, recurse)

    def forward(self, source: Tensor, driving: Tensor, branch: Branch) -> Tensor:
        """One edit as in training: pictures `source` with one branch driven by `driving`, both [N, 3, S, S]."""
        alpha = self.motion(self.encode(driving, with_features=False).w)
        return self.render(self.encode(source), alpha, branch)
