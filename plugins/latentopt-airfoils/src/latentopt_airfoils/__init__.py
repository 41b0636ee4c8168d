"""Airfoils for latentopt: a decoder of real ones, and NeuralFoil's figures as objectives."""

from __future__ import annotations

from collections.abc import Sequence

from latentopt import DecoderConfig, ObjectiveConfig, hookimpl
from latentopt_airfoils.aero import Aero
from latentopt_airfoils.decoders import Airfoils
from latentopt_airfoils.geometry import AirfoilShape, DistanceToReal
from latentopt_airfoils.known import Nearest, nearest_real
from latentopt_airfoils.neuralfoil import Flow, NeuralFoil
from latentopt_airfoils.opinions import Opinion, opinion
from latentopt_airfoils.outlines import outline
from latentopt_airfoils.polarplots import polars
from latentopt_airfoils.published import RealAirfoils, real

__all__ = [
    "Aero",
    "AirfoilShape",
    "Airfoils",
    "DistanceToReal",
    "Flow",
    "Nearest",
    "NeuralFoil",
    "Opinion",
    "RealAirfoils",
    "nearest_real",
    "opinion",
    "outline",
    "polars",
    "real",
]


@hookimpl
def latentopt_register_decoders() -> Sequence[type[DecoderConfig]]:
    return [Airfoils]


@hookimpl
def latentopt_register_objectives() -> Sequence[type[ObjectiveConfig]]:
    return [Aero, AirfoilShape, DistanceToReal]
