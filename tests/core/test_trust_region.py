"""Conjugate gradients solve what they should, and second derivatives are those of the function."""

import pytest
import torch

from proximo.core.updates.trust_region import conjugate_gradient, flat_gradient, hessian_product


@pytest.mark.parametrize("size", [1, 2, 7, 30])
def test_as_many_steps_as_unknowns_solve_a_positive_definite_system(size):
    generator = torch.Generator().manual_seed(size)
    root = torch.randn(size, size, generator=generator, dtype=torch.float64)
    matrix = root @ root.T + torch.eye(size, dtype=torch.float64)
    wanted = torch.randn(size, generator=generator, dtype=torch.float64)
    found = conjugate_gradient(lambda v: matrix @ v, matrix @ wanted, 2 * size, tolerance=1e-24)
    torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-8)


def test_each_step_lowers_the_error_in_the_matrixs_own_norm():
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(40, 40, generator=generator, dtype=torch.float64)
    matrix = root @ root.T + 0.1 * torch.eye(40, dtype=torch.float64)
    wanted = torch.randn(40, generator=generator, dtype=torch.float64)
    errors = []
    for steps in range(1, 20):
        off = conjugate_gradient(lambda v: matrix @ v, matrix @ wanted, steps) - wanted
        errors.append(float(off @ matrix @ off))
    assert errors == sorted(errors, reverse=True)


def test_nothing_is_solved_by_nothing():
    assert torch.equal(conjugate_gradient(lambda v: v, torch.zeros(3), 5), torch.zeros(3))


def test_products_are_those_of_the_matrix_of_second_derivatives():
    a, b = (torch.randn(3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    unused = torch.randn(2, dtype=torch.float64, requires_grad=True)

    def function(x):
        return (x[:3].tanh() * x[3:6].exp()).sum() + (x[:6] ** 4).sum()

    scalar = function(torch.cat([a, b]))
    matrix = torch.autograd.functional.hessian(function, torch.cat([a, b]).detach())
    product = hessian_product(scalar, [a, unused, b], damping=0.5)
    for i in range(8):
        one = torch.zeros(8, dtype=torch.float64)
        one[i] = 1.0
        column = product(one) - 0.5 * one
        assert torch.equal(column[3:5], torch.zeros(2, dtype=torch.float64)), "it does not depend on these"
        rest = torch.cat([column[:3], column[5:]])
        where = {0: 0, 1: 1, 2: 2, 5: 3, 6: 4, 7: 5}.get(i)
        expected = torch.zeros(6, dtype=torch.float64) if where is None else matrix[:, where]
        torch.testing.assert_close(rest, expected)
    assert flat_gradient(scalar, [a, unused, b]).shape == (8,)
