"""What the shipped runs find, beside real airfoils and draws. `python scripts/runs.py` writes README's tables."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from torch import Tensor

import latentopt as lo
import latentopt_airfoils as airfoils
from latentopt_airfoils import Aero, AirfoilShape, NeuralFoil

README = Path(__file__).parents[1] / "README.md"
SEEDS, DRAWS, BLOCK = 4, 20_000, 1000
LIFTS = (0.0, 0.8, 1.0, 1.5)
KINDS: dict[str, type[Aero | AirfoilShape]] = {"aero": Aero, "airfoil_shape": AirfoilShape}
TASKS = {
    "demo": "most lift to drag at 5 degrees, 10 % thick or more",
    "cruise": "least drag at a lift coefficient of 0.8, 12 % thick or more, moment of -0.1 or more",
}


def best_draw(result: lo.Result) -> float:
    """The best value of a run's objective among draws that keep its constraints and lie in its region, the 99 % ball."""
    task = result.config["task"]
    aim, *limits = (KINDS[one["kind"]].model_validate(one) for one in (*task["objectives"], *task["constraints"]))
    decoder = lo.load_decoder("airfoils")
    z = decoder.space.draw(DRAWS, torch.Generator().manual_seed(5))
    x = decoder.decode(z[z.norm(dim=1) <= decoder.space.prior.radius_at(99.0, decoder.dim)])
    found: list[Tensor] = []
    for part in x.split(BLOCK):
        value, kept = aim.of(part), torch.ones(len(part), dtype=torch.bool)
        for limit in limits:
            kept &= limit.goal.shortfall(limit.of(part)) == 0
        found.append(value[kept & value.isfinite()])
    values = torch.cat(found)
    return float(values.max() if aim.goal == "maximize" else values.min())


def runs_table() -> str:
    """A row a run."""
    lines = [
        "| run | task | found | best real airfoil | best of 20,000 prior draws | by the larger network | "
        "nearest real airfoil | seconds | seeds differ by |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, words in TASKS.items():
        values, seconds = [], []
        for seed in reversed(range(SEEDS)):
            began = time.perf_counter()
            result = lo.run(f"airfoils:{name}", changes=[f"seed={seed}"])
            seconds.append(time.perf_counter() - began)
            values.append(abs(float(result.best.loss)))
        told = airfoils.opinion(result)
        beside = f"{told.second:.4g}; best real {told.real_second:.4g}"
        lines.append(
            f"| `{name}` | {words} | {told.value:.4g} | {told.real_value:.4g} ({told.real_name}) | {best_draw(result):.4g} | "
            f"{beside} | {told.distance:.4f} chords | {min(seconds):.1f} to {max(seconds):.1f} | "
            f"{max(values) / min(values) - 1:.2%} |"
        )
    return "\n".join(lines)


def angles_table() -> str:
    """For how many real airfoils an angle of attack is found, by the lift that is asked for."""
    network, numbers = NeuralFoil(), airfoils.real().numbers
    shares = [float(network.alpha_for(numbers, lift).isfinite().float().mean()) for lift in LIFTS]
    heads = " | ".join(f"lift {lift:g}" for lift in LIFTS)
    return f"| {heads} |\n| {' | '.join(['---'] * len(LIFTS))} |\n| {' | '.join(f'{one:.0%}' for one in shares)} |"


def main() -> None:
    """Write README's tables."""
    text = README.read_text("utf-8")
    for name, table in (("runs", runs_table()), ("angles", angles_table())):
        before, _, rest = text.partition(f"<!-- begin {name} -->")
        after = rest.partition(f"<!-- end {name} -->")[2]
        text = f"{before}<!-- begin {name} -->\n{table}\n<!-- end {name} -->{after}"
    README.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
