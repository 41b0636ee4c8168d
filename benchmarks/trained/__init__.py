"""Trained auto-encoders for tests and benchmarks: `load("deep")` gives a decoder, `held_out("deep", 8)` designs to reach."""

from benchmarks.trained.loading import NAMES as NAMES, held_out as held_out, load as load
