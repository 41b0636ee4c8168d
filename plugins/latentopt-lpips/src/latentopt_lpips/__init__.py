"""LPIPS for latentopt."""
