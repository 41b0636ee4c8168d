"""Total variation as a latentopt objective: a whole plugin in one file."""

from typing import Literal

from latentopt import Decoder, Objective, ObjectiveConfig, hookimpl


class TotalVariation(ObjectiveConfig):
    """Mean absolute difference between neighbouring values, (N,)."""

    kind: Literal["tv"] = "tv"

    def build(self, decoder: Decoder) -> Objective:
        return lambda c: c.designs.diff(dim=-1).abs().flatten(1).mean(1)


@hookimpl
def latentopt_register_objectives() -> list[type[ObjectiveConfig]]:
    return [TotalVariation]
