"""Optimisers: Adam as published, and Muon, which trains this network several times faster."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from ..devices import emulates_bfloat16
from .config import Optimiser

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic iteration that drives singular values towards 1 (Jordan et al. 2024, "Muon")."""
ITERATIONS = 5
SMALLEST_SIDE = 8
"""Weights with fewer rows or columns than this are left to Adam."""


def make_optimiser(parameters: Iterable[nn.Parameter], settings: Optimiser, every: int) -> Optimizer:
    """The configured optimiser; rate and betas are raised by every / (every + 1) (StyleGAN2, lazy regularisation)."""
    ratio = every / (every + 1)
    betas = (settings.beta1**ratio, settings.beta2**ratio)
    if settings.kind == "muon":
        return Muon(parameters, settings.lr * ratio, settings.momentum, betas)
    return Adam(parameters, lr=settings.lr * ratio, betas=betas)


def as_matrix(weight: Tensor) -> Tensor:
    """A weight as a matrix [out, in], kernel taps counted as inputs."""
    if weight.ndim == 5 and weight.shape[0] == 1:
        weight = weight[0]
    return weight.flatten(1)


def is_matrix(weight: Tensor) -> bool:
    """Whether Muon takes a weight; others (biases, heads with a few outputs) are left to Adam."""
    return weight.ndim >= 2 and min(as_matrix(weight).shape) >= SMALLEST_SIDE


def orthogonalised(update: Tensor) -> Tensor:
    """The matrix [n, m] with its singular values brought to about 1 (Newton-Schulz iteration).

    In bfloat16, which is exact enough, or in float32 where bfloat16 would be emulated.
    """
    x = update.to(torch.float32 if emulates_bfloat16(update.device.type) else torch.bfloat16)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / (x.norm() + 1e-7)
    a, b, c = NEWTON_SCHULZ
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x


def state_entries(optimiser: Optimizer) -> list[tuple[torch.Size, frozenset[str]]]:
    """Of every parameter, as `state_dict` numbers them: its shape, and what the optimiser keeps of it."""
    found: list[tuple[torch.Size, frozenset[str]]] = []
    for group in optimiser.param_groups:
        kept = {"step", "exp_avg", "exp_avg_sq"}
        if isinstance(optimiser, Muon):
            kept = {"average"} if group["matrices"] else {"step", "average", "square"}
        found += [(parameter.shape, frozenset(kept)) for parameter in group["params"]]
    return found


class Muon(Optimizer):
    """Momentum whose matrix updates are orthogonalised (Jordan et al. 2024); Adam for everything else.

    An update of a matrix has the root mean square `lr`, as one of Adam's has, so one rate fits both. Equalised layers
    keep their weights at unit variance, which makes the rate the relative change of a step.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], lr: float, momentum: float, betas: tuple[float, float]
    ) -> None:
        taken = list(parameters)
        groups = [
            {"params": [p for p in taken if is_matrix(p)], "matrices": True},
            {"params": [p for p in taken if not is_matrix(p)], "matrices": False},
        ]
        defaults = {"lr": lr, "momentum": momentum, "betas": betas, "eps": 1e-8}
        super().__init__([g for g in groups if g["params"]], defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    (_matrix_step if group["matrices"] else _adam_step)(parameter, self.state[parameter], group)
        return loss


def _matrix_step(parameter: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
    assert parameter.grad is not None
    if "average" not in state:
        state["average"] = torch.zeros_like(parameter)
    state["average"].lerp_(parameter.grad, 1.0 - group["momentum"])
    # Nesterov's look ahead.
    update = as_matrix(parameter.grad.lerp(state["average"], group["momentum"]))
    rows, columns = update.shape
    direction = orthogonalised(update).to(parameter.dtype).reshape(parameter.shape)
    # An orthogonal matrix has the root mean square 1 / sqrt(longer side).
    parameter.add_(direction, alpha=-group["lr"] * max(rows, columns) ** 0.5)


def _adam_step(parameter: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
    assert parameter.grad is not None
    if "step" not in state:
        state["step"] = torch.zeros(())
        state["average"], state["square"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
    state["step"] += 1
    first, second = group["betas"]
    state["average"].lerp_(parameter.grad, 1.0 - first)
    state["square"].lerp_(parameter.grad.square(), 1.0 - second)
    done = float(state["step"])
    scale = (state["square"] / (1.0 - second**done)).sqrt_().add_(group["eps"])
    parameter.addcdiv_(state["average"], scale, value=-group["lr"] / (1.0 - first**done))
