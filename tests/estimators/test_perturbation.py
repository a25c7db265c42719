"""SPSA and finite differences against sums over all noise and all directions; what the three perturbations have in common."""

from __future__ import annotations

import gc
from itertools import pairwise, product

import pytest
import torch
from torch import nn

from dither import SPSA, Bernoulli, FiniteDifference, NodePerturbation, exact, noise

F64 = torch.float64


def net(seed: int, *sizes: int) -> nn.Sequential:
    generator = torch.Generator().manual_seed(seed)
    layers: list[nn.Module] = []
    for a, b in pairwise(sizes):
        linear = nn.Linear(a, b).double()
        for p in linear.parameters():
            p.data = torch.randn(p.shape, generator=generator, dtype=F64)
        layers += [linear, Bernoulli()]
    return nn.Sequential(*layers)


def inputs(batch: int, width: int) -> torch.Tensor:
    return torch.randn(batch, width, generator=torch.Generator().manual_seed(9), dtype=F64)


def cost_of(model: nn.Module, x: torch.Tensor):
    return lambda: torch.sin(2 * model(x).sum(1)) + model(x)[:, 0] * x.sum(1)


class Expected:
    """Instead of the cost of one noise, the exact expected cost: what is left is the perturbation's own part."""

    def _cost(self, closure, seed, sample):
        return exact.expected_cost(self.model, closure).detach().unsqueeze(1)


class ExpectedSPSA(Expected, SPSA):
    pattern: tuple[torch.Tensor, ...]

    def direction(self, seed, number, like, sample):
        return self.pattern[number].clone()


class ExpectedDifference(Expected, FiniteDifference):
    pass


def gradient(estimator, closure) -> torch.Tensor:
    return exact.concatenate(exact.parameter_gradients(estimator(closure), estimator.model.parameters()))


def patterns(model: nn.Module):
    count = sum(p.numel() for p in model.parameters())
    for signs in product((-1.0, 1.0), repeat=count):
        parts = torch.tensor(signs, dtype=F64).split([p.numel() for p in model.parameters()])
        yield tuple(part.view(p.shape) for part, p in zip(parts, model.parameters(), strict=True))


def mean_of_spsa(model: nn.Module, closure, scale: float) -> torch.Tensor:
    estimator, actual = ExpectedSPSA(model, scale=scale), []
    for pattern in patterns(model):
        estimator.pattern = pattern
        actual.append(gradient(estimator, closure))
    return torch.stack(actual).mean(0)


@pytest.mark.parametrize("sizes", [(1, 1), (1, 1, 1), (2, 2)])
def test_over_all_directions_the_bias_of_spsa_falls_with_the_square_of_the_scale(sizes: tuple[int, ...]) -> None:
    model = net(1, *sizes)
    closure = cost_of(model, inputs(1, sizes[0]))
    truth = exact.concatenate(exact.gradient(model, closure))
    errors = [(mean_of_spsa(model, closure, scale) - truth).norm() for scale in (0.04, 0.02, 0.01)]
    assert 1e-6 < errors[-1] < 0.01
    for coarse, fine in pairwise(errors):
        assert 3.9 < coarse / fine < 4.1


@pytest.mark.parametrize("sizes", [(1, 1), (2, 2, 1)])
def test_the_bias_of_finite_differences_falls_with_the_square_of_the_scale(sizes: tuple[int, ...]) -> None:
    model = net(2, *sizes)
    closure = cost_of(model, inputs(2, sizes[0]))
    truth = exact.concatenate(exact.gradient(model, closure))
    errors = [(gradient(ExpectedDifference(model, scale=scale), closure) - truth).norm() for scale in (0.04, 0.02, 0.01)]
    assert 1e-7 < errors[-1] < 0.01
    for coarse, fine in pairwise(errors):
        assert 3.9 < coarse / fine < 4.1


def by_hand(model: nn.Sequential, x: torch.Tensor, seed: torch.Tensor, sample: int, shift: list[torch.Tensor]) -> torch.Tensor:
    """Mean of sin(2 sum h) at shifted parameters, with the keyed noise of sites 0, 1, ..."""
    h = x
    for site, linear in enumerate(model[::2]):
        weight, bias = (p.detach() + s for p, s in zip(linear.parameters(), shift[2 * site : 2 * site + 2], strict=True))
        a = h @ weight.T + bias
        h = (noise.uniform(seed, site, torch.tensor(sample), tuple(a.shape), a) < torch.sigmoid(a)).to(F64)
    return torch.sin(2 * h.sum(1)).mean()


@pytest.mark.parametrize("distribution", ["rademacher", "normal"])
@pytest.mark.parametrize("exact_restore", [True, False])
def test_a_call_is_the_printed_formula(distribution, exact_restore: bool) -> None:
    model, x, c = net(3, 3, 4, 3), inputs(64, 3), 0.3
    estimator = SPSA(model, scale=c, samples=4, distribution=distribution, exact_restore=exact_restore)
    torch.manual_seed(7)
    loss = estimator(lambda: torch.sin(2 * model(x).sum(1)))
    torch.manual_seed(7)
    parameters, seed = list(model.parameters()), noise.draw_seed()
    expected, values = [torch.zeros_like(p) for p in parameters], []
    for k in range(2):
        d = [estimator.direction(int(seed), i, p, k) for i, p in enumerate(parameters)]
        plus, minus = (by_hand(model, x, seed, k, [s * c * v for v in d]) for s in (1, -1))
        assert plus != minus
        expected = [e + (plus - minus) / (2 * c) * v / 2 for e, v in zip(expected, d, strict=True)]
        values += [plus, minus]
    actual = torch.autograd.grad(3 * loss, parameters)
    assert torch.allclose(exact.concatenate(actual), 3 * exact.concatenate(expected), rtol=1e-9, atol=1e-12)
    assert torch.allclose(loss.detach(), torch.stack(values).mean(), rtol=1e-9)


def test_directions_are_signs_of_their_own_for_each_parameter_sample_and_seed() -> None:
    estimator = SPSA(net(0, 3, 40, 3), samples=4)
    like = torch.empty(40, 30)
    drawn = [estimator.direction(s, n, like, k) for s in (1, 2) for n in (0, 1) for k in (0, 1)]
    for i, one in enumerate(drawn):
        assert set(one.unique().tolist()) == {-1.0, 1.0}
        for other in drawn[:i]:
            assert abs(float((one * other).mean())) < 0.15  # five standard deviations
    assert torch.equal(drawn[0], estimator.direction(1, 0, like, 0))
    assert abs(float(SPSA(net(0, 3, 2), distribution="normal").direction(1, 0, like, 0).std()) - 1) < 0.1


def test_both_evaluations_have_the_same_noise() -> None:
    model, x = net(4, 3, 5, 3), inputs(32, 3)
    for estimator in (SPSA(model, scale=1e-12), FiniteDifference(model, scale=1e-12)):
        assert not gradient(estimator, cost_of(model, x)).any()


def test_a_perturbed_direction_is_never_kept() -> None:
    model, x, packed, alive = net(5, 200, 100), inputs(4, 200), [], []
    estimator = SPSA(model, scale=0.1, exact_restore=False)

    def large() -> int:
        tensors = (o for o in gc.get_objects() if issubclass(type(o), torch.Tensor))
        return sum(o.numel() >= 20_000 for o in tensors if not torch.nn.parameter.is_lazy(o))  # another test's may be lazy

    def closure() -> torch.Tensor:
        alive.append(large())
        return model(x).sum(1)

    before = large()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: packed.append(t), lambda t: t):
        loss = estimator(closure)
    assert packed == [] and alive == [before, before] and large() == before
    seen = []

    def consume(p: torch.Tensor) -> None:
        seen.append(large())
        p.grad = None

    for p in model.parameters():
        p.register_post_accumulate_grad_hook(consume)
    loss.backward()
    assert len(seen) == 2 and max(seen) <= before + 1  # one gradient at a time


@pytest.mark.parametrize("build", [SPSA, FiniteDifference, lambda m: SPSA(m, exact_restore=False)])
def test_parameters_come_back_also_when_the_closure_raises(build) -> None:
    model, x = net(6, 3, 2), inputs(2, 3)
    estimator, before = build(model), [p.detach().clone() for p in model.parameters()]
    exactly = getattr(estimator, "exact_restore", True)
    for fails_at in (1, 2, 0):
        count, moved = 0, []

        def closure(fails_at: int = fails_at) -> torch.Tensor:
            nonlocal count
            count += 1
            moved.append(any(not torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True)))  # noqa: B023
            if count == fails_at:
                raise KeyError("planned")
            return model(x).sum(1)

        if fails_at:
            with pytest.raises(KeyError):
                estimator(closure)
        else:
            estimator(closure)
            assert count == estimator.evaluations
        assert all(moved)
        for p, b in zip(model.parameters(), before, strict=True):
            assert torch.equal(p, b) if exactly else torch.allclose(p, b, rtol=0, atol=1e-14)


def test_saturated_units_and_frozen_parameters() -> None:
    model, x = net(7, 3, 2, 2), torch.full((4, 3), 1e4, dtype=F64)
    model[2].weight.requires_grad_(False)
    frozen = model[2].weight.clone()
    for estimator in (SPSA(model), FiniteDifference(model), NodePerturbation(model)):
        loss = estimator(lambda: model(x).sum(1) + 0 * (model[2].weight - frozen).abs().sum())
        grads = torch.autograd.grad(
            loss, [p for p in model.parameters() if p.requires_grad], retain_graph=True, allow_unused=True
        )
        assert all(g is None or bool(torch.isfinite(g).all()) for g in grads)
        loss.backward()
        assert model[2].weight.grad is None and torch.equal(model[2].weight, frozen)


@pytest.mark.parametrize("build", [SPSA, FiniteDifference, NodePerturbation])
def test_reproducible_stateless_and_loud(build) -> None:
    model, x = net(8, 3, 2), inputs(3, 3)
    closure = cost_of(model, x)
    drawn = []
    for _ in range(2):
        torch.manual_seed(4)
        estimator = build(model)
        with noise.examples(torch.tensor([5, 6, 7])):
            drawn.append(gradient(estimator, closure))
    assert torch.equal(*drawn) and estimator.state_dict() == {}
    with pytest.raises(ValueError, match="Unexpected key"):
        estimator.load_state_dict({"a": x})
    with pytest.raises(
        FloatingPointError, match=rf"1 of 3 examples \(first: example 2\) in call 2 of {build.__name__}.*noise seed"
    ):
        estimator(lambda: model(x).sum(1) + torch.tensor([0.0, 0.0, torch.inf]))
    with pytest.raises(ValueError, match="called none of the nodes"):
        estimator(lambda: x.sum(1))
    with torch.no_grad():
        assert not estimator(closure).requires_grad
    with pytest.raises(ValueError, match="scale is 0"):
        build(model, scale=0)


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"has 8 trainable parameters, max_parameters is 7.*dither.SPSA"):
        FiniteDifference(net(0, 3, 2), max_parameters=7)
    assert FiniteDifference(net(0, 3, 2), max_parameters=8).evaluations == 16
    with pytest.raises(ValueError, match="distribution is 'cauchy'"):
        SPSA(net(0, 3, 2), distribution="cauchy")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="nothing to perturb"):
        SPSA(net(0, 3, 2).requires_grad_(False))
