"""Periodic two-phase microstructures for latentopt."""

from latentopt import DecoderConfig, hookimpl
from latentopt_materials.decoders import Microstructures
from latentopt_materials.known import known_designs
from latentopt_materials.periodic import centred
from latentopt_materials.structures import FAMILIES, make_structures

__all__ = ["FAMILIES", "Microstructures", "centred", "known_designs", "make_structures"]


@hookimpl
def latentopt_register_decoders() -> list[type[DecoderConfig]]:
    return [Microstructures]
