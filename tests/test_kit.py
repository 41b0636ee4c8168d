"""The conformance kit's own rules: what it refuses, and what may be declared."""

from contextlib import nullcontext
from typing import ClassVar, Literal

import pytest
import torch
from _pytest.outcomes import Failed

from latentopt import ObjectiveConfig, Reference
from latentopt.testing import ObjectiveConformance


class Solver(ObjectiveConfig):
    """Halves a number until it is small, and looks at it on the host each time."""

    kind: Literal["solver"] = "solver"

    def build(self, decoder):
        def value(c):
            rest_M = c.designs.flatten(1).mean(1)
            while float(rest_M.detach().abs().max()) > 0.1:
                rest_M = rest_M / 2
            return rest_M

        return value


class PatientSolver(Solver):
    """The same, and says so."""

    kind: Literal["patient_solver"] = "patient_solver"
    waits_for_device: ClassVar[bool] = True


class Kit(ObjectiveConformance):
    """Not collected: called below."""

    __test__ = False


def kit(config):
    """The kit for a config."""
    return type("Mine", (Kit,), {"config": config})()


def test_an_objective_that_reads_the_host_is_refused():
    with pytest.raises(Failed, match="a host sync: a tensor's value was read in Python"):
        kit(Solver()).test_gradients_reach_their_own_row_without_a_host_sync()


def test_one_that_says_so_is_not_and_its_gradients_are_still_checked():
    kit(PatientSolver()).test_gradients_reach_their_own_row_without_a_host_sync()

    class Leaky(PatientSolver):
        def build(self, decoder):
            return lambda c: c.designs.flatten(1).mean(1) - c.designs.mean()

    with pytest.raises(AssertionError):
        kit(Leaky()).test_gradients_reach_their_own_row_without_a_host_sync()


ONE, TWO = torch.zeros(1), torch.tensor([0.0, 1.0])
MISALIGNED = {
    "a place for all designs": {"of_N": ONE},
    "places that fall": {"bounds": {"most": (TWO.flip(0), TWO)}},
    "a value for two places": {"bounds": {"most": (TWO, ONE)}},
    "two known values in one place": {"known": {"some": (ONE, TWO)}},
    "one name of two designs": {"known": {"some": (TWO, TWO)}, "names": {"some": ["a"]}},
}


@pytest.mark.parametrize("case", MISALIGNED)
def test_what_is_known_beforehand_must_be_aligned(case):
    class Knows(PatientSolver):
        def reference(self, designs):
            return Reference("size", **{"of_N": designs.flatten(1).mean(1), **MISALIGNED[case]})

    with pytest.raises(AssertionError):
        kit(Knows()).test_what_is_known_beforehand_is_aligned()


GREY = torch.full((1, 4, 4), 0.5)
NO_PICTURES = {
    "pictures by the batch": {"all": GREY[None]},
    "two channels": {"two": GREY.expand(2, 4, 4)},
    "bytes": {"bytes": GREY.to(torch.uint8)},
    "brighter than white": {"bright": 3 * GREY},
    "holes": {"holes": GREY * torch.nan},
    "nothing to see": {"nothing": GREY[:, :0]},
    "no title": {"": GREY},
    "a title of two lines": {"a\nb": GREY},
}


@pytest.mark.parametrize("case", NO_PICTURES)
def test_what_an_objective_draws_must_be_pictures(case):
    class Draws(PatientSolver):
        def pictures(self, designs):
            return NO_PICTURES[case]

    with pytest.raises(AssertionError):
        kit(Draws()).test_what_it_draws_of_designs_are_pictures()


@pytest.mark.parametrize(
    ("alone", "holds"),
    [
        (lambda x: x.flatten(1).mean(1), True),
        (lambda x: 2 * x.flatten(1).mean(1), False),
        (lambda x: x.flatten(1).mean(1)[:1], False),
        (lambda x: x.mean(), False),
    ],
)
def test_the_number_of_designs_by_themselves_must_be_the_objectives_own(alone, holds):
    class Mean(Solver):
        def build(self, decoder):
            return lambda c: c.designs.flatten(1).mean(1)

        def of(self, designs):
            return alone(designs)

    with nullcontext() if holds else pytest.raises(AssertionError):
        kit(Mean()).test_the_number_of_designs_by_themselves_is_that_of_the_rows()


def test_pictures_leave_designs_and_random_numbers_alone():
    class Draws(PatientSolver):
        def pictures(self, designs):
            return {"first": designs[0]}

    kit(Draws()).test_what_it_draws_of_designs_are_pictures()

    class Changes(PatientSolver):
        def pictures(self, designs):
            return {"first": designs.mul_(0.5)[0]}

    with pytest.raises(AssertionError, match="pictures changed the designs"):
        kit(Changes()).test_what_it_draws_of_designs_are_pictures()

    class Random(PatientSolver):
        def pictures(self, designs):
            return {"noise": torch.rand(1, 4, 4)}

    with pytest.raises(AssertionError, match="global random state was used"):
        kit(Random()).test_what_it_draws_of_designs_are_pictures()
