"""What least squares says, against closed forms; and that chance is called chance."""

import numpy as np
import pytest

from proximo.control.probes.regression import basis, effect, explained, features


@pytest.mark.parametrize("uneven", [False, True])
def test_independent_targets_have_a_uniform_p(uneven):
    """Of 120 targets that nothing explains, 5 % lie below 0.05 (at most 13: P = 0.005), and half below 0.5."""
    generator = np.random.default_rng(1)
    found = []
    for _ in range(120):
        x, given = generator.normal(size=(2, 300, 1))
        # A target may vary more in some states than in others, which an F test would take for an effect.
        size = 1.0 + 3.0 * x[:, 0] ** 2 if uneven else np.ones(300)
        target = x[:, 0] + size * generator.normal(size=300)
        own = np.concatenate([given, given * x], 1)
        found.append(effect(own, np.concatenate([np.ones((300, 1)), x], 1), target[:, None]).p)
    assert np.sum(np.array(found) < 0.05) <= 13
    assert 0.35 < np.mean(np.array(found) < 0.5) < 0.65


@pytest.mark.parametrize("size", [0.1, 0.5, 2.0])
def test_the_share_is_that_of_the_variance(size):
    """y = x + size · a + noise, all of variance 1: the action's share is size² / (2 + size²)."""
    x, given, noise = np.random.default_rng(0).normal(size=(3, 20_000, 1))
    found = effect(given, np.concatenate([np.ones_like(x), x], 1), x + size * given + noise)
    expected = size**2 / (2 + size**2)
    assert found.share == pytest.approx(expected, abs=0.02)
    assert found.limit >= expected - 0.01
    assert found.clear(0.5 * expected)


def test_an_effect_that_depends_on_the_state_is_found():
    """It has no mean over the states, so the action alone explains nothing."""
    x, given, noise = np.random.default_rng(0).normal(size=(3, 3000, 1))
    context = np.concatenate([np.ones_like(x), x], 1)
    assert not effect(given, context, x * given + noise).share > 0.02
    assert effect(x * given, context, x * given + noise).share == pytest.approx(0.5, abs=0.05)


def test_many_useless_columns_explain_nothing():
    """100 of them take a fifth of the variance of 500 rows, by chance."""
    given, target = np.random.default_rng(0).normal(size=(500, 100)), np.random.default_rng(1).normal(size=(500, 1))
    found = effect(given, np.ones((500, 1)), target)
    assert abs(found.share) < 0.05
    assert not found.clear()


def test_a_rank_deficient_basis_has_the_rank():
    x = np.random.default_rng(0).normal(size=(50, 3))
    q = basis(np.concatenate([x, x @ np.ones((3, 2)), np.zeros((50, 1))], 1))
    assert q.shape == (50, 3)
    np.testing.assert_allclose(q.T @ q, np.eye(3), atol=1e-6)
    np.testing.assert_allclose(q @ (q.T @ x), x, atol=1e-6)


def test_explained_variance_is_of_what_was_not_fitted():
    """x + noise of the same size: a half. Noise alone: 0, however many features there are. A sine: nearly all."""
    generator = np.random.default_rng(0)
    x, noise = generator.normal(size=(2, 4000))
    fold = np.arange(4000) % 4
    assert explained(features(x[:, None]), x + noise, fold) == pytest.approx(0.5, abs=0.04)
    assert explained(generator.normal(size=(4000, 300)), noise, fold) < 0.01
    assert explained(features(x[:, None]), np.sin(2 * x), fold) > 0.95
    assert explained(features(x[:, None]), np.full(4000, 1e6), fold) == 0.0
