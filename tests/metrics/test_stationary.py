"""Chains in closed form, against scipy's graph search, and by running them."""

import math

import pytest
import scipy.sparse.csgraph
import torch

from dither.metrics import mixing_time_scale, second_eigenvalue, stationary, structure


def random_chain(states, seed=0, share=1.0):
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.rand(states, states, generator=generator, dtype=torch.float64) ** 4
    mask = torch.rand(states, states, generator=generator) < share
    mask[torch.arange(states), torch.randint(0, states, (states,), generator=generator)] = True  # no empty row
    matrix *= mask
    return matrix / matrix.sum(1, keepdim=True)


def two_states(a, b):
    return torch.tensor([[1 - a, a], [b, 1 - b]], dtype=torch.float64)


def moves(*edges, states):
    matrix = torch.zeros(states, states, dtype=torch.float64)
    for source, target in edges:
        matrix[source, target] = 1
    return matrix / matrix.sum(1, keepdim=True)


def cycle(*members):
    return list(zip(members, [*members[1:], members[0]], strict=True))


@pytest.mark.parametrize("states", [1, 2, 3, 17, 200])
@pytest.mark.parametrize("share", [1.0, 0.5])
def test_stationary_stays(states, share):
    matrix = random_chain(states, share=share)
    pi = stationary(matrix)
    assert pi.dtype == torch.float64 and pi.min() >= 0
    assert abs(float(pi.sum()) - 1) < 1e-14
    assert (pi @ matrix - pi).abs().sum() < 1e-14


@pytest.mark.parametrize(("a", "b"), [(0.3, 0.6), (1e-13, 3e-13), (1e-3, 1e-14), (1.0, 1.0)])
def test_two_states_in_closed_form(a, b):
    """Also for chains that hardly ever move, where a linear solver has lost its digits."""
    expected = torch.tensor([b, a], dtype=torch.float64) / (a + b)
    torch.testing.assert_close(stationary(two_states(a, b)), expected, rtol=1e-14, atol=0)


def test_a_birth_death_chain_in_closed_form():
    """Ratios of neighbours are the ratio of the rates: from 1 down to 1e-57."""
    up, down = 1e-4, 0.9
    matrix = torch.diag(torch.full((14,), up, dtype=torch.float64), 1) + torch.diag(torch.full((14,), down).double(), -1)
    matrix += torch.diag(1 - matrix.sum(1))
    pi = stationary(matrix)
    torch.testing.assert_close(pi[1:] / pi[:-1], torch.full((14,), up / 0.9, dtype=torch.float64), rtol=1e-7, atol=0)


def test_reversible_chain():
    """Metropolis moves between any two states leave their target alone."""
    target = torch.rand(40, generator=torch.Generator().manual_seed(0), dtype=torch.float64) ** 6
    matrix = (target / target.unsqueeze(1)).clamp(max=1) / 40
    matrix += torch.diag(1 - matrix.sum(1))
    torch.testing.assert_close(stationary(matrix), target / target.sum(), rtol=1e-12, atol=0)


def test_transient_states_get_nothing():
    matrix = moves((0, 0), (0, 1), (1, 2), (2, 1), (2, 3), (3, 1), states=4)
    pi = stationary(matrix)
    assert pi[0] == 0
    assert (pi @ matrix - pi).abs().sum() < 1e-15
    actual = structure(matrix)
    assert (actual.irreducible, actual.period, actual.closed_classes, actual.transient) == (False, 1, ((1, 2, 3),), 1)
    assert actual.ergodic


def test_the_argument_is_left_alone():
    matrix = random_chain(5)
    before = matrix.clone()
    stationary(matrix)
    assert torch.equal(matrix, before)


@pytest.mark.parametrize(
    ("edges", "states", "irreducible", "period", "classes"),
    [
        (cycle(0, 1, 2, 3, 4, 5), 6, True, 6, ((0, 1, 2, 3, 4, 5),)),
        (cycle(0, 1, 2, 3) + cycle(0, 4, 5, 6, 7, 8), 9, True, 2, (tuple(range(9)),)),
        (cycle(0, 1, 2, 3) + cycle(0, 4, 5), 6, True, 1, (tuple(range(6)),)),
        ([*cycle(0, 1, 2, 3), (2, 2)], 4, True, 1, ((0, 1, 2, 3),)),
        (cycle(0, 3) + cycle(1, 2, 4), 5, False, 6, ((0, 3), (1, 2, 4))),
        ([(0, 0), (1, 1), (2, 2)], 3, False, 1, ((0,), (1,), (2,))),
        ([(0, 1), (1, 2), (2, 3), (3, 3)], 4, False, 1, ((3,),)),
        ([(3, 2), (2, 1), (1, 0), (0, 0), (2, 4), (4, 4)], 5, False, 1, ((0,), (4,))),
        ([*cycle(0, 1), (1, 2), *cycle(2, 3, 4)], 5, False, 3, ((2, 3, 4),)),
    ],
)
def test_structure(edges, states, irreducible, period, classes):
    actual = structure(moves(*edges, states=states))
    assert (actual.irreducible, actual.period, actual.closed_classes) == (irreducible, period, classes)
    assert actual.transient == states - sum(map(len, classes))
    assert actual.ergodic == (len(classes) == 1 and period == 1)


@pytest.mark.parametrize("seed", range(20))
def test_structure_against_scipy(seed):
    matrix = random_chain(30, seed, share=0.03)
    _, labels = scipy.sparse.csgraph.connected_components(matrix.numpy() > 0, directed=True, connection="strong")
    groups = [tuple((labels == label).nonzero()[0].tolist()) for label in set(labels)]
    rest = set(range(30))
    closed = [g for g in groups if not (matrix[list(g)][:, list(rest - set(g))] > 0).any()]
    actual = structure(matrix)
    assert actual.closed_classes == tuple(sorted(closed))
    assert actual.irreducible == (len(groups) == 1)
    assert len(actual.closed_classes[0]) < 30, "sparse enough to fall apart"


def test_small_transitions_count():
    assert structure(two_states(1e-300, 1e-300)).irreducible
    assert not structure(two_states(0.0, 0.5)).irreducible


def test_several_stationary_distributions_are_refused_with_their_classes():
    with pytest.raises(ValueError, match=r"2 closed classes of states \(\{0, 3\}; \{1, 2, 4\}\)"):
        stationary(moves(*cycle(0, 3), *cycle(1, 2, 4), states=5))
    with pytest.raises(ValueError, match=r"9 closed classes of states \(\{0\}; \{1\}; \{2\}; \{3\}; \.\.\.\)"):
        stationary(torch.eye(9))
    with pytest.raises(ValueError, match=r"\{0, 1, 2, 3, 4, 5, \.\.\. 8 states\}"):
        stationary(moves(*cycle(*range(8)), (8, 8), states=9))


def test_what_float64_cannot_tell_from_none_is_refused():
    """From 1 back to 0 the way leads over 2, with probability 1e-200 squared."""
    matrix = torch.tensor([[0, 1, 0], [0, 1, 1e-200], [1e-200, 1, 0]], dtype=torch.float64)
    assert structure(matrix).irreducible
    with pytest.raises(ValueError, match="1e-308"):
        stationary(matrix)


@pytest.mark.parametrize(("a", "b"), [(0.3, 0.6), (0.9, 0.9), (0.5, 0.5), (1e-3, 1e-3)])
def test_second_eigenvalue_of_two_states(a, b):
    value = abs(1 - a - b)
    assert second_eigenvalue(two_states(a, b)) == pytest.approx(value, abs=1e-15)
    if value:
        assert mixing_time_scale(two_states(a, b)) == pytest.approx(-1 / math.log(value), rel=1e-12)
    else:
        assert mixing_time_scale(two_states(a, b)) < 0.03


def test_second_eigenvalue_is_the_rate_at_which_the_start_is_forgotten():
    matrix = random_chain(12)
    pi, scale = stationary(matrix), mixing_time_scale(matrix)
    early, late = round(8 * scale), round(28 * scale)
    far = [float((torch.linalg.matrix_power(matrix, step)[0] - pi).abs().sum()) for step in (early, late)]
    assert math.log(far[0] / far[1]) / (late - early) == pytest.approx(-math.log(second_eigenvalue(matrix)), rel=0.05)


def test_chains_that_do_not_forget():
    for matrix in (torch.eye(3), moves(*cycle(0, 1, 2), states=3)):
        assert second_eigenvalue(matrix) == 1
        assert mixing_time_scale(matrix) == math.inf
    assert second_eigenvalue(torch.ones(1, 1)) == 0
    assert mixing_time_scale(torch.ones(1, 1)) == 0


@pytest.mark.parametrize("function", [structure, stationary, second_eigenvalue, mixing_time_scale])
@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (torch.eye(3)[:2], r"matrix has shape \(2, 3\).*square"),
        (torch.ones(1), "matrix has shape"),
        (torch.zeros(0, 0), "matrix has shape"),
        (torch.eye(2) * torch.nan, "matrix holds nan"),
        (torch.tensor([[1.5, -0.5], [0.0, 1.0]]), "matrix holds -0.5"),
        (two_states(0.5, 0.5) + 1e-9, "matrix sums to 1.000000002 in row"),
    ],
)
def test_no_chain(function, matrix, message):
    with pytest.raises(ValueError, match=message):
        function(matrix)
