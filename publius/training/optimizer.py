"""Muon for the matrices of the blocks, AdamW for the rest, and the warmup-stable-decay schedule."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
from pydantic import Field
from torch import Tensor, nn

from publius.core.config import Config
from publius.model.fused import Part, fused_parts

__all__ = [
    "MatrixOptimizer",
    "Muon",
    "OptimizerConfig",
    "Optimizers",
    "build_optimizers",
    "divide",
    "lying",
    "orthogonalise",
    "rise_and_fall",
    "schedule",
]


class OptimizerConfig(Config):
    """Learning rates are peaks; the schedule scales both."""

    muon_lr: float = Field(default=0.02, ge=0)
    adamw_lr: float = Field(default=0.003, ge=0)
    matrices: bool = True
    """False trains everything with AdamW."""
    weight_decay: float = Field(default=0.01, ge=0)
    """Decoupled, on matrices only."""
    momentum: float = Field(default=0.95, ge=0, lt=1)
    betas: tuple[float, float] = (0.9, 0.95)
    adamw_eps: float = Field(default=1e-10, gt=0)
    """Gradients far below it move nothing. Small, every row of an embedding learns at the full rate however
    rare its token; fine-tuning wants it large, or names that are never said are unlearned step by step."""
    newton_schulz_steps: int = Field(default=5, ge=1)
    warmup: int = Field(default=20, ge=0)
    """Steps of linear warm-up, at most a tenth of all."""
    decay_fraction: float = Field(default=0.4, ge=0, le=1)
    """The last part of training, in which the rate falls to zero in a line."""


def schedule(step: int, steps: int, config: OptimizerConfig) -> float:
    """The multiplier of the learning rates at `step` (from 0) of `steps`; short runs warm up for less."""
    return rise_and_fall(step, steps, min(config.warmup, steps // 10) + 1, config.decay_fraction)


def rise_and_fall(step: int, steps: int, rise: int, decay_fraction: float) -> float:
    """Warm up to 1 at the `rise`-th step, stay, fall to 0 over the last `decay_fraction` of `steps`.

    Warmup-stable-decay (Hu et al. 2024, arXiv 2404.06395, section 4).
    """
    falling = (steps - step) / (decay_fraction * steps) if decay_fraction else 1.0
    return max(0.0, min(1.0, (step + 1) / rise, falling))


def orthogonalise(matrices_NRC: Tensor, steps: int) -> Tensor:
    """The nearest (semi-)orthogonal matrix to each, roughly, by a quintic Newton-Schulz iteration in bf16.

    Singular values end between about 0.7 and 1.2; coefficients from Jordan et al. 2024 (Muon). Needs
    R <= C, so that the Gram matrices are the small ones.
    """
    x = matrices_NRC.bfloat16()
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=-4.7750, alpha=2.0315), x, beta=3.4445)
    return x


class _Rows(NamedTuple):
    """One matrix: some rows of a parameter, and the name it has outside."""

    name: str
    param: nn.Parameter
    start: int
    stop: int

    def weight(self) -> Tensor:
        return self.param[self.start : self.stop]

    def grad(self) -> Tensor:
        whole = self.param.grad
        return torch.zeros_like(self.weight()) if whole is None else whole[self.start : self.stop]


class MatrixOptimizer(Protocol):
    """What trains the matrices."""

    def step(self, lr: float) -> None:
        """Update every parameter from its `.grad` (none counts as zero)."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """The state by name, in place: writing into the tensors restores it."""
        ...


class Muon:
    """Momentum, orthogonalised (Jordan et al. 2024): Nesterov momentum, then `orthogonalise`.

    Matrices of one shape (or its transpose) are stacked, so that a step is a few batched products.
    Updates are scaled by max(1, rows / columns)^0.5.

    Args:
        params: 2-D parameters by name.
        config: `momentum`, `weight_decay`, `newton_schulz_steps`.
        parts: of those that hold several matrices (`fused_parts`); each is orthogonalised by itself.
    """

    def __init__(
        self,
        params: dict[str, nn.Parameter],
        config: OptimizerConfig,
        parts: dict[str, tuple[Part, ...]] | None = None,
    ) -> None:
        self.config = config
        self.params: list[Tensor] = list(params.values())
        self.groups: dict[tuple[int, int], list[_Rows]] = {}
        for name, param in params.items():
            for part in (parts or {}).get(name) or (Part(name, 0, param.shape[0]),):
                rows, columns = sorted((part.stop - part.start, param.shape[1]))
                self.groups.setdefault((rows, columns), []).append(
                    _Rows(part.name, param, part.start, part.stop)
                )
        self.momenta = {
            shape: torch.zeros(len(group), *shape, device=group[0].param.device)
            for shape, group in self.groups.items()
        }

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Update every parameter from its `.grad` (none counts as zero)."""
        keep, decay = self.config.momentum, 1 - lr * self.config.weight_decay
        torch._foreach_mul_(self.params, decay)  # pyright: ignore[reportPrivateImportUsage]
        for shape, group in self.groups.items():
            grads = torch.stack([lying(matrix.grad()) for matrix in group])
            momentum = self.momenta[shape].lerp_(grads, 1 - keep)
            updates = orthogonalise(grads.lerp_(momentum, keep), self.config.newton_schulz_steps).float()
            for matrix, update in zip(group, updates, strict=True):
                weight = matrix.weight()
                scale = max(1.0, weight.shape[0] / weight.shape[1]) ** 0.5
                lying(weight).add_(update, alpha=-lr * scale)

    def tensors(self) -> dict[str, Tensor]:
        """The state by name: a momentum of the shape of each matrix."""
        state: dict[str, Tensor] = {}
        for shape, group in self.groups.items():
            for matrix, momentum in zip(group, self.momenta[shape], strict=True):
                standing = matrix.weight().shape != momentum.shape
                state[f"muon.{matrix.name}"] = momentum.mT if standing else momentum
        return state


def lying(matrix: Tensor) -> Tensor:
    """A view of the matrix with rows <= columns."""
    return matrix.mT if matrix.shape[0] > matrix.shape[1] else matrix


class Optimizers:
    """Muon and AdamW together, with a state of plain named tensors.

    Names in the state are those of a checkpoint: a fused parameter's moments are kept by its parts, so that a
    state does not depend on how the model is laid out in memory, or over how many processes.

    Args:
        rest: what AdamW trains, by name.
        muon: trains the other parameters; None when there are none.
        config: rates and constants.
        parts: of fused parameters in `rest`.
    """

    def __init__(
        self,
        rest: dict[str, nn.Parameter],
        muon: MatrixOptimizer | None,
        config: OptimizerConfig,
        parts: dict[str, tuple[Part, ...]] | None = None,
    ) -> None:
        self.config, self.rest, self.muon, self._parts = config, rest, muon, parts or {}
        wide = [p for p in self.rest.values() if p.ndim >= 2]
        thin = [p for p in self.rest.values() if p.ndim < 2]
        groups = [(wide, config.weight_decay), (thin, 0.0)]
        self._adamw = [
            torch.optim.AdamW(
                params,
                lr=torch.tensor(config.adamw_lr),
                betas=config.betas,
                eps=config.adamw_eps,
                weight_decay=decay,
                fused=True,
            )
            for params, decay in groups
            if params
        ]

    def step(self, multiplier: float) -> None:
        """Update all parameters from their gradients, at `multiplier` times the peak rates."""
        if self.muon is not None:
            self.muon.step(self.config.muon_lr * multiplier)
        for adamw in self._adamw:
            adamw.param_groups[0]["lr"].fill_(self.config.adamw_lr * multiplier)
            adamw.step()

    def tensors(self) -> dict[str, Tensor]:
        """The whole state by name; empty moments before the first step."""
        state = self.muon.tensors() if self.muon is not None else {}
        for name, param in self.rest.items():
            moments = self._moments(param).get(param, {})
            for key, value in moments.items():
                for part in self._named(name, param):
                    state[f"adamw.{key}.{part.name}"] = (
                        value[part.start : part.stop] if value.ndim else value.reshape(1)
                    )
        return state

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Put back what `tensors` returned."""
        if self.muon is not None:
            for name, value in self.muon.tensors().items():
                value.copy_(tensors[name])
        for name, param in self.rest.items():
            names = [part.name for part in self._named(name, param)]
            moments = self._moments(param)[param]
            for key in ("step", "exp_avg", "exp_avg_sq"):
                if f"adamw.{key}.{names[0]}" not in tensors:
                    continue
                values = [tensors[f"adamw.{key}.{part}"] for part in names]
                if key == "step":
                    moments[key] = values[0].reshape(()).clone().to(param.device)
                else:
                    moments[key] = torch.cat(values).reshape(param.shape).to(param.device)

    def _named(self, name: str, param: Tensor) -> tuple[Part, ...]:
        return self._parts.get(name) or (Part(name, 0, len(param) if param.ndim else 1),)

    def _moments(self, param: Tensor) -> dict[Any, dict[str, Tensor]]:
        return next(a.state for a in self._adamw if any(p is param for p in a.param_groups[0]["params"]))


def build_optimizers(model: nn.Module, config: OptimizerConfig) -> Optimizers:
    """The optimizers of `model`: matrices in `layers` go to Muon; embeddings, norms and heads to AdamW."""
    inside, rest = divide({n: p for n, p in model.named_parameters() if p.requires_grad}, config)
    parts = fused_parts(model)
    return Optimizers(rest, Muon(inside, config, parts) if inside else None, config, parts)


def divide(
    named: dict[str, nn.Parameter], config: OptimizerConfig
) -> tuple[dict[str, nn.Parameter], dict[str, nn.Parameter]]:
    """Parameters for Muon, and the rest."""
    inside = {n: p for n, p in named.items() if config.matrices and p.ndim == 2 and ".layers." in f".{n}"}
    return inside, {name: p for name, p in named.items() if name not in inside}
