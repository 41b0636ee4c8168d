"""The solver's own promises: rows alone, rows that are not solved, first derivatives only, discrete operators."""

import pytest
import torch

from latentopt_materials import elements
from latentopt_materials.homogenise import effective
from latentopt_materials.laws import conduction, elasticity
from latentopt_materials.solver import Accuracy, Cell

EXACT = Accuracy(tolerance=1e-12, iterations=3000)


def rows(count, *grid, moduli=1, seed=0, spread=2.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.exp(spread * torch.randn(count, moduli, *grid, generator=generator, dtype=dtype))


@pytest.mark.parametrize("grid", [(5, 6), (3, 4, 5)])
def test_corners_is_the_adjoint_of_modes(grid):
    dim = len(grid)
    u, a = torch.randn(2, 3, *grid, dtype=torch.float64), torch.randn(2**dim - 1, 2, 3, *grid, dtype=torch.float64)
    given = a.clone()
    assert torch.allclose((elements.modes(u, dim) * a).sum(), (u * elements.corners(a, dim)).sum())
    assert torch.equal(a, given)


@pytest.mark.parametrize("turned", [False, True])
def test_a_matrix_of_few_sums_is_applied_by_them(turned):
    mix = elasticity(2).mix.T if turned else elasticity(2).mix
    x, found = torch.randn(mix.shape[1], 3, 4, dtype=torch.float64), torch.empty(len(mix), 3, 4, dtype=torch.float64)
    sums = elements.sums(mix)
    assert sums is not None
    elements.run(elements.combined_into(found, x, mix, sums))
    assert torch.allclose(found, (mix @ x.flatten(1)).view_as(found))


@pytest.mark.parametrize("row", [[1.0, 1.0, 1.0], [0.5, 0.0, 0.0], [0.0, 0.0, 0.0]])
def test_other_matrices_are_multiplied(row):
    assert elements.sums(torch.tensor([[1.0, 0.0, 0.0], row])) is None


def test_energies_are_those_of_bilinear_elements_by_quadrature():
    """Two Gauss points a side are exact for bilinear elements."""
    u = torch.randn(2, 2, 2, dtype=torch.float64)  # corners y, x; fields along y, x last
    a = elements.modes(u.movedim(-1, 0).repeat(1, 2, 2), 2)[:, :, 0, 0]  # of the pixel with corners 0 and 1
    point = 0.5 + torch.tensor([-1.0, 1.0], dtype=torch.float64) / (2 * 3**0.5)
    energy, trace, deviator = 0.0, 0.0, 0.0
    for y in point:
        for x in point:
            along_y = torch.stack([-(1 - x), 1 - x, -x, x]).view(2, 2).T  # d/dy of the four shape functions, [y][x]
            along_x = torch.stack([-(1 - y), -y, 1 - y, y]).view(2, 2).T
            gradient = torch.stack([(along * u.movedim(-1, 0)).sum((1, 2)) for along in (along_y, along_x)])
            strain = (gradient + gradient.T) / 2
            energy += gradient[:, 0].square().sum() / 4
            trace += strain.trace().square() / 4
            deviator += 2 * (strain.square().sum() - strain.trace().square() / 2) / 4
    assert torch.allclose(a[:, 0] @ elements.conduction_form(2)[0] @ a[:, 0], energy)
    k, g = elements.elastic_forms(2)
    assert torch.allclose(a.flatten() @ k @ a.flatten(), trace)
    assert torch.allclose(a.flatten() @ g @ a.flatten(), deviator)


@pytest.mark.parametrize("law", [conduction(2), elasticity(2), elasticity(3)], ids=["heat", "plane", "space"])
def test_both_forms_are_diagonal_in_the_same_modes(law):
    for p in range(len(law.weights)):
        one = torch.zeros(len(law.weights))
        one[p] = 1
        forms = elements.conduction_form(law.dim) if law.fields == 1 else elements.elastic_forms(law.dim)
        assert torch.allclose(law.form(one), forms[p], atol=1e-12)


@pytest.mark.parametrize("law", [conduction(2), elasticity(2), conduction(3)], ids=["heat", "plane", "space"])
def test_green_solves_the_uniform_medium(law):
    grid = (6, 5, 4)[: law.dim]
    reference = torch.tensor([2.0, 0.7])[: len(law.weights)]
    cell = Cell(law, grid, reference, torch.eye(len(law.unit)), torch.empty(0, dtype=torch.float64))
    uniform = reference.double().view(1, -1, *(1,) * law.dim).expand(1, -1, *grid)
    u = torch.randn(law.fields, 1, 2, *grid, dtype=torch.float64)
    u = u - u.mean(tuple(range(3, u.ndim)), keepdim=True)
    force = cell.force(cell.stiffness(uniform) * cell.strain(u))
    assert torch.allclose(cell.green(force), u, atol=1e-10)


@pytest.mark.parametrize("law", [conduction(2), elasticity(2)], ids=["heat", "plane"])
@pytest.mark.parametrize("grid", [(6, 5), (5, 6), (4, 2), (3, 3)])
def test_forces_times_displacements_are_found_among_the_waves(law, grid):
    cell = Cell(law, grid, torch.ones(len(law.weights)), torch.eye(len(law.unit)), torch.empty(0, dtype=torch.float64))
    force = torch.randn(law.fields, 3, len(law.unit), *grid, dtype=torch.float64)
    waves, work = cell.green.waves(force)
    assert torch.allclose(work, (force * cell.green.displacements(waves)).sum((0, 3, 4)))


@pytest.mark.parametrize("law", [conduction(2), elasticity(2), elasticity(3)], ids=["heat", "plane", "space"])
def test_the_calls_of_an_iteration_can_be_made_again(law):
    grid = (4, 5, 3)[: law.dim]
    cell = Cell(law, grid, torch.ones(len(law.weights)), torch.eye(len(law.unit)), torch.empty(0, dtype=torch.float64))
    u, image = torch.zeros(2, law.fields, 3, len(law.unit), *grid, dtype=torch.float64)
    stiffness = cell.stiffness(rows(3, *grid, moduli=len(law.weights), spread=0.5))
    calls = cell.image_into(image, u, stiffness)
    for seed in range(2):
        u.copy_(torch.randn(u.shape, generator=torch.Generator().manual_seed(seed), dtype=u.dtype))
        elements.run(calls)
        assert torch.allclose(image, cell.force(stiffness * cell.strain(u)))


@pytest.mark.parametrize("law", [conduction(2), elasticity(2)], ids=["heat", "plane"])
def test_a_row_is_the_same_in_any_batch(law):
    moduli = rows(9, 16, 16, moduli=len(law.weights), dtype=torch.float32)
    moduli[3] = 1.0  # solved at once
    whole = effective(moduli, law)
    assert torch.isfinite(whole).all()
    for i in range(9):
        assert torch.allclose(effective(moduli[i : i + 1], law)[0], whole[i], rtol=1e-6, atol=1e-6)
    assert torch.allclose(effective(moduli.flip(0), law), whole.flip(0), rtol=1e-6, atol=1e-6)


def test_blocks_change_nothing(monkeypatch):
    moduli, law = rows(7, 12, 12), conduction(2)
    whole = effective(moduli, law)
    monkeypatch.setattr(Cell, "rows_at_once", lambda self, device: 2)
    assert torch.allclose(effective(moduli, law), whole, rtol=1e-12)


def test_each_row_stops_at_its_own_count():
    cell = Cell(conduction(2), (16, 16), torch.ones(1), torch.eye(2), torch.empty(0, dtype=torch.float64))
    moduli = torch.cat([torch.ones(1, 1, 16, 16), rows(1, 16, 16, spread=0.1), rows(1, 16, 16, spread=2.0)]).double()
    found = cell.solve(moduli, EXACT)
    assert found.solved.all()
    assert found.iterations[0] == 0
    assert 0 < found.iterations[1] < found.iterations[2]
    seldom = cell.solve(moduli, Accuracy(EXACT.tolerance, EXACT.iterations, every=5))
    assert (seldom.iterations % 5 == 0).all()
    assert (seldom.iterations - found.iterations).tolist() == [-int(n) % 5 for n in found.iterations]


def test_rows_that_are_not_solved_are_nan_and_so_are_their_gradients():
    moduli = torch.cat([rows(1, 16, 16, spread=0.05), rows(1, 16, 16, spread=3.0)]).requires_grad_(True)
    found = effective(moduli, conduction(2), accuracy=Accuracy(tolerance=1e-6, iterations=6))
    assert torch.isfinite(found[0]).all()
    assert found[1].isnan().all()
    (gradient,) = torch.autograd.grad(found.sum(), moduli)
    assert torch.isfinite(gradient[0]).all()
    assert gradient[1].isnan().all()


def test_rows_with_nan_stay_alone():
    moduli = rows(3, 8, 8)
    whole = effective(moduli, conduction(2))
    moduli[1, 0, 2, 2] = torch.nan
    found = effective(moduli, conduction(2))
    assert found[1].isnan().all()
    assert torch.allclose(found[[0, 2]], whole[[0, 2]])


def test_the_bound_on_the_error_holds_at_every_tolerance():
    moduli, law = rows(6, 24, 24, spread=1.7), conduction(2)
    exact = effective(moduli, law, accuracy=EXACT).diagonal(dim1=1, dim2=2)
    for tolerance in (1e-1, 1e-2, 1e-4):
        found = effective(moduli, law, accuracy=Accuracy(tolerance, 3000, every=1)).diagonal(dim1=1, dim2=2)
        assert (found >= exact * (1 - 1e-10)).all()  # an energy is never below its least
        assert (found / exact - 1).max() < tolerance


def test_loads_combine():
    moduli = rows(2, 8, 8, moduli=2, spread=0.5)
    whole = effective(moduli, elasticity(2), accuracy=EXACT)
    pressure = torch.tensor([[1.0, 1.0, 0.0]])
    alone = effective(moduli, elasticity(2), loads=pressure, accuracy=EXACT)
    assert torch.allclose(alone[:, 0, 0], whole[:, :2, :2].sum((1, 2)))


def test_products_with_the_jacobian_are_right_and_second_derivatives_are_nan():
    moduli = rows(1, 4, 4, spread=0.5).requires_grad_(True)
    found = effective(moduli, conduction(2), accuracy=EXACT)[:, 0, 0]
    weight = torch.ones_like(found, requires_grad=True)
    (pulled,) = torch.autograd.grad(found, moduli, weight, create_graph=True)
    along = torch.randn_like(moduli)
    (pushed,) = torch.autograd.grad(pulled, weight, along, retain_graph=True)
    assert torch.allclose(pushed, (pulled.detach() * along).sum()[None])
    (batched,) = torch.autograd.grad(pulled, weight, along[None], retain_graph=True, is_grads_batched=True)
    assert torch.allclose(batched[0], pushed)
    (second,) = torch.autograd.grad(pulled.sum(), moduli)
    assert second.isnan().all()


def test_wrong_shapes_are_told():
    with pytest.raises(ValueError, match=r"moduli have shape \(2, 1, 4, 4, 4\), expected \(N, 1, \*grid\) with 2 axes"):
        effective(torch.ones(2, 1, 4, 4, 4), conduction(2))
