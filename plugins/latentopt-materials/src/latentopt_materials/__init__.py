"""Periodic two-phase microstructures for latentopt."""

from __future__ import annotations

from latentopt import DecoderConfig, ObjectiveConfig, hookimpl
from latentopt_materials.conductivity import Conductivity
from latentopt_materials.decoders import Microstructures
from latentopt_materials.descriptors import (
    Change,
    Grey,
    InterfaceLength,
    LinealPath,
    ThinParts,
    TwoPoint,
    VolumeFraction,
)
from latentopt_materials.elasticity import Stiffness
from latentopt_materials.known import known_designs
from latentopt_materials.periodic import centred
from latentopt_materials.structures import FAMILIES, make_structures
from latentopt_materials.topology import FeatureSize, Percolation

__all__ = [
    "FAMILIES",
    "OBJECTIVES",
    "Change",
    "Conductivity",
    "FeatureSize",
    "Grey",
    "InterfaceLength",
    "LinealPath",
    "Microstructures",
    "Percolation",
    "Stiffness",
    "ThinParts",
    "TwoPoint",
    "VolumeFraction",
    "centred",
    "known_designs",
    "make_structures",
]

OBJECTIVES: tuple[type[ObjectiveConfig], ...] = (
    Conductivity,
    Stiffness,
    VolumeFraction,
    Grey,
    InterfaceLength,
    TwoPoint,
    LinealPath,
    Change,
    ThinParts,
    Percolation,
    FeatureSize,
)


@hookimpl
def latentopt_register_objectives() -> list[type[ObjectiveConfig]]:
    return list(OBJECTIVES)


@hookimpl
def latentopt_register_decoders() -> list[type[DecoderConfig]]:
    return [Microstructures]
