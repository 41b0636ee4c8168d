"""Run every benchmark, or those named: `python -m benchmarks engine memory`."""

from __future__ import annotations

import importlib
import sys

import torch

ALL = (
    "engine",
    "reports",
    "memory",
    "blocks",
    "learning_rate",
    "lbfgs_options",
    "lm_options",
    "decoder_options",
    "auto_plan",
    "searches",
    "quality",
    "gradient_free",
    "keeping",
    "peers",
    "homogenisation",
)


def main() -> None:
    """Run them in turn, one thread."""
    torch.set_num_threads(1)
    names = sys.argv[1:] or ALL
    unknown = sorted(set(names) - set(ALL))
    if unknown:
        raise SystemExit(f"unknown benchmark {unknown[0]!r}; known: {', '.join(ALL)}")
    for name in names:
        importlib.import_module(f"benchmarks.{name}").main()


if __name__ == "__main__":
    main()
