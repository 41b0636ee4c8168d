"""Periodic two-phase microstructures for latentopt."""

from __future__ import annotations

from latentopt import ObjectiveConfig, hookimpl
from latentopt_materials.conductivity import Conductivity
from latentopt_materials.descriptors import InterfaceLength, LinealPath, ThinParts, TwoPoint, VolumeFraction
from latentopt_materials.elasticity import Stiffness
from latentopt_materials.topology import FeatureSize, Percolation

OBJECTIVES: tuple[type[ObjectiveConfig], ...] = (
    Conductivity,
    Stiffness,
    VolumeFraction,
    InterfaceLength,
    TwoPoint,
    LinealPath,
    ThinParts,
    Percolation,
    FeatureSize,
)


@hookimpl
def latentopt_register_objectives() -> list[type[ObjectiveConfig]]:
    return list(OBJECTIVES)
