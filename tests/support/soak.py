"""Figures of promises that have a short form, run always, and a long one, run by `make soak`."""

import os

LONG = bool(os.environ.get("LATENTOPT_SOAK"))


def figure(short, long):
    """How many of something a test does: `short` always, `long` where LATENTOPT_SOAK is set."""
    return long if LONG else short
