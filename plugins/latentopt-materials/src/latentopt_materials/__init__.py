"""Periodic two-phase microstructures for latentopt."""
