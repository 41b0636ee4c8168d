"""Draw the README's picture: what the run `cruise` finds, the best real airfoil for its task, and the nearest real one.

python plugins/latentopt-airfoils/scripts/picture.py         # a quarter of a minute
"""

from __future__ import annotations

import importlib.resources
from pathlib import Path

import torch

import latentopt as lo
import latentopt_airfoils as airfoils

OUT = Path(__file__).resolve().parents[1] / "cruise.png"


def main() -> None:
    """Run, draw, and print the opinion."""
    result = lo.run(str(importlib.resources.files("latentopt_airfoils") / "runs" / "cruise.yaml"))
    assert isinstance(result, lo.Result)
    judged = airfoils.opinion(result)
    assert judged.real_name is not None
    known = airfoils.real()
    others = [known.numbers[known.names.index(name)] for name in (judged.real_name, judged.nearest)]
    labels = ["found", f"best real one, {judged.real_name}", f"nearest real one, {judged.nearest}"]
    title = "Least drag at a lift coefficient of 0.8, 12 % thick or more"
    airfoils.polars(torch.stack([result.best.design, *others]), labels, title=title).savefig(OUT, dpi=100)
    print(judged)


if __name__ == "__main__":
    main()
