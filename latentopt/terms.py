"""Terms: objectives and constraints, built, called and checked one by one. A problem is made of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from latentopt.decoder import Decoder
from latentopt.errors import ConfigError, ObjectiveError
from latentopt.goals import Goal
from latentopt.interfaces import Candidates, Objective, ObjectiveConfig
from latentopt.outputs import FAILURES, describe, first_line, is_out_of_memory


class Looked(NamedTuple):
    """What a look at a few draws found: whether gradients reach the latents, the values, and the value where all had one."""

    has_gradient: bool
    constant: float | None
    values: list[float]


@dataclass(frozen=True)
class Term:
    """One objective or constraint, built: its callable, goal and weight, and whether it sees whole targets."""

    name: str
    function: Objective
    goal: Goal = "minimize"
    weight: float = 1.0
    across_rows: bool = False

    @property
    def notes(self) -> tuple[str, ...]:
        """What the callable says that results should tell of it. Raises `ConfigError` where that is no list of sentences."""
        found = getattr(self.function, "notes", ())
        if not isinstance(found, list | tuple) or not all(isinstance(one, str) and one.strip() for one in found):
            raise ConfigError(
                f"the notes of objective {self.name!r} are {describe(found)}, expected a list of sentences: "
                'write them as ["..."], or call the attribute something else'
            )
        return tuple(found)

    @property
    def nan_means(self) -> str:
        """What the callable says that a NaN of it means; empty where it says nothing. Raises `ConfigError` for no text."""
        found = getattr(self.function, "nan_means", "")
        if not isinstance(found, str):
            raise ConfigError(f"nan_means of objective {self.name!r} is {describe(found)}, expected a text")
        return found

    def values(self, candidates: Candidates) -> Tensor:
        """One number a row `(M,)`. Raises `ObjectiveError` where the callable fails, or gives anything else."""
        n = candidates.latents.shape[0]
        try:
            value = self.function(candidates)
        except (*FAILURES, MemoryError, OSError, ImportError) as error:
            if is_out_of_memory(error):
                raise  # fewer rows may do
            raise ObjectiveError(
                f"objective {self.name!r} fails on designs of shape {tuple(candidates.designs.shape)} "
                f"({type(error).__name__}: {first_line(error)}): make it take a batch of designs and give one number a row"
            ) from error
        if not isinstance(value, Tensor) or value.shape != (n,) or not value.is_floating_point():
            raise ObjectiveError(_wrong_value(self.name, value, n))
        return value

    def look(self, candidates: Candidates, targets: int) -> Looked:
        """Check it on a few prior draws, whose latents require gradients, in a run of so many targets.

        Raises `ConfigError` where it has another number of targets of its own, `ObjectiveError` where no value is finite.
        """
        aims = getattr(self.function, "targets", 1)
        if isinstance(aims, int) and aims not in (1, targets):
            raise ConfigError(
                f"objective {self.name!r} has {aims} targets of its own and the run has {targets}: give it one, or pass "
                "all of them as the task's target"
            )
        value = self.values(candidates)
        if not bool(torch.isfinite(value).any()):
            first = float(value.detach()[0])
            means = self.nan_means if math.isnan(first) else ""
            raise ObjectiveError(
                f"objective {self.name!r} gives {first} for every draw from the prior: "
                f"{means or 'it must give finite numbers on the designs that the decoder makes'}"
            )
        alike = len(value) > 1 and bool((value == value[0]).all())
        constant = float(value.detach()[0]) if alike else None
        values = value.detach().double().tolist()
        if not value.requires_grad:
            return Looked(False, constant, values)
        weights = torch.arange(1.0, len(value) + 1, dtype=value.dtype, device=value.device)  # unequal, as in the probe
        (gradient,) = torch.autograd.grad(
            (value.nan_to_num() * weights).sum(), candidates.latents, retain_graph=True, allow_unused=True
        )
        return Looked(gradient is not None and bool((gradient != 0).any()), constant, values)


def build_terms(configs: Sequence[ObjectiveConfig], decoder: Decoder, taken: Sequence[str] = ()) -> list[Term]:
    """Terms of these configs; a second term of one name is called `name_2`."""
    names = list(taken)
    terms = []
    for config in configs:
        stem = config.name or (config.kind_name() if config.kind_name() != "callable" else _called_name(config))
        name, count = stem, 2
        while name in names:
            name, count = f"{stem}_{count}", count + 1
        names.append(name)
        terms.append(Term(name, config.build(decoder), config.goal, config.weight, config.across_rows))
    return terms


def _called_name(config: ObjectiveConfig) -> str:
    name = getattr(getattr(config, "function", None), "__name__", "callable")
    return "callable" if name == "<lambda>" else str(name)


def _wrong_value(name: str, value: object, n: int) -> str:
    got = describe(value)
    if isinstance(value, Tensor) and value.shape == (n,):
        got = f"{value.dtype} numbers"
    remedy = "return one number a row and do not reduce over rows, for example .flatten(1).mean(1)"
    if isinstance(value, Tensor) and value.is_complex():
        remedy = "return real numbers, for example .abs()"
    elif isinstance(value, Tensor) and value.shape == (n,):
        remedy = "return floating-point numbers, for example with .float()"
    return f"objective {name!r} returned {got} for {n} rows, expected a float tensor of shape ({n},): {remedy}"
