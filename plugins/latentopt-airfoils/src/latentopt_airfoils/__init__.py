"""Airfoils for latentopt."""
