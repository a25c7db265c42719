"""The short ways that a small node's step takes give what the long ones give."""

import math

import pytest
import torch
from torch._C import _functorch  # type: ignore[attr-defined]
from torch._subclasses import FakeTensorMode

import dither
from dither import kernels, noise
from dither.estimators.core.along import along
from dither.estimators.core.shapes import _number
from dither.estimators.core.vectorized import _indices, vectorized

LEAD, BATCH, UNITS = (2, 4), 3, 6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("seeds", [0, 1, 2])
@pytest.mark.parametrize("ids", [0, 1, 2])
@pytest.mark.parametrize("lead", [LEAD, LEAD[1:]], ids=str)
def test_dimensions_that_a_key_lacks_are_those_of_all_samples(lead, ids, seeds, dtype):
    seed = torch.arange(math.prod(lead[:seeds])).view(lead[:seeds])
    rows = 5 + torch.arange(math.prod(lead[:ids]) * BATCH).view(*lead[:ids], BATCH)
    sample = torch.arange(math.prod(lead)).view(lead)
    x = torch.randn(*lead, BATCH, UNITS, generator=torch.Generator().manual_seed(0)).to(dtype)
    drawn = kernels.bernoulli(x, (seed, 1, sample, rows, False))
    of_seed = seed.view(*seed.shape, *[1] * (len(lead) - seed.dim())).expand(lead)
    of_rows = rows.view(*rows.shape[:-1], *[1] * (len(lead) + 1 - rows.dim()), BATCH).expand(*lead, BATCH)
    for at in torch.cartesian_prod(*map(torch.arange, lead)).view(-1, len(lead)).tolist():
        key = (of_seed[tuple(at)], 1, sample[tuple(at)], of_rows[tuple(at)].contiguous(), False)
        assert torch.equal(drawn[tuple(at)], kernels.bernoulli(x[tuple(at)].contiguous(), key))


def test_runs_in_one_are_those_of_torch_vmap():
    table = torch.arange(12.0).view(4, 3)

    def once(index):
        return table[index].sum(), [table.square(), table[index]], [], [index * torch.ones(2)]

    ours = vectorized(once, 4)
    theirs = torch.func.vmap(once, randomness="same")(torch.arange(4))
    torch.testing.assert_close(ours, theirs)
    with pytest.raises(ZeroDivisionError):
        vectorized(lambda index: 1 / 0, 4)
    assert _functorch.maybe_current_level() is None, "the vmap ends also by an exception"


def in_fake_mode(step, x):
    with FakeTensorMode() as mode:
        step(mode.from_tensor(x))


def in_inference_mode(step, x):
    with torch.inference_mode():
        step(x)


def in_vmap(step, x):
    torch.func.vmap(step, randomness="same")(torch.stack((x, x)))


def in_grad(step, x):
    torch.func.grad(step)(x)


@pytest.mark.parametrize("first", [in_fake_mode, in_inference_mode, in_vmap, in_grad], ids=lambda first: first.__name__)
def test_what_is_kept_is_ordinary_whatever_asked_first(first):
    noise._consecutive.cache_clear()
    _indices.cache_clear()
    _number.cache_clear()
    node, x = dither.Bernoulli(), torch.zeros(7, 2)
    estimator = dither.ScoreFunction(node, baseline="leave-one-out", samples=3)

    def step(logits):
        return estimator(lambda: node(logits).sum(1))

    first(step, x)
    for kept, value in (
        (noise.example_ids(7, x.device), [*range(7)]),
        (_indices(3), [0, 1, 2]),
        (_number(3, x.dtype), 3),
    ):
        assert type(kept) is torch.Tensor and not kept.is_inference() and not _functorch.is_functorch_wrapped_tensor(kept)
        assert kept.tolist() == value
    step(x.requires_grad_()).backward()


@pytest.mark.parametrize("value", [math.inf, -math.inf])
def test_a_surrogate_has_no_gradient_at_infinite_logits(value):
    logits = torch.tensor([[1.0, value], [2.0, 3.0]], requires_grad=True)
    estimate = torch.tensor([[2.0, 5.0], [-4.0, 6.0]])
    surrogate = along(logits, estimate, 2)
    assert surrogate.isfinite()
    surrogate.backward()
    assert logits.grad is not None and logits.grad.tolist() == [[1.0, 0.0], [-2.0, 3.0]]


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("differentiating", [True, False])
def test_a_loss_is_no_view_of_the_closures_cost(batch, differentiating):
    net = torch.nn.Sequential(torch.nn.Linear(3, 2), dither.Bernoulli())
    estimator, kept = dither.StraightThrough(net), []

    def closure():
        kept.append(net(torch.ones(batch, 3)).sum(1).exp())  # whose backward needs its result
        return kept[-1]

    with torch.set_grad_enabled(differentiating):
        loss = estimator(closure)
    before = kept[-1].detach().clone()
    loss *= 0.5
    assert torch.equal(kept[-1], before)
    if differentiating:
        loss.backward()


@pytest.mark.parametrize("node", [dither.Bernoulli(), dither.Bernoulli(values=(-1, 1)), dither.Categorical()], ids=repr)
def test_scores_of_shared_logits_are_those_of_each_run(node):
    assert node.score_broadcasts
    logits = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(1))
    samples = torch.stack([node.sample(logits, torch.rand(3, 2, 4)) for _ in range(5)])
    together = node.score(logits, samples)
    assert torch.equal(together, torch.stack([node.score(logits, sample) for sample in samples]))


@pytest.mark.parametrize("way", ["by itself", "float64", "sampler", "source", "mean", "mode", "estimator", "relaxed"])
def test_a_unit_without_categories_is_refused_on_every_way(way):
    node = dither.Categorical(sampler=dither.functional.gumbel_softmax) if way == "sampler" else dither.Categorical()
    logits = torch.full((2, 3), -torch.inf, dtype=torch.float64 if way == "float64" else torch.float32)
    logits[0] = 0

    def call():
        if way in ("mean", "mode"):
            with dither.deterministic(way):
                return node(logits)
        if way == "source":
            with dither.nodes.taken_over([node], source=lambda node, a, *_: torch.full_like(a, 0.5)):
                return node(logits)
        if way in ("estimator", "relaxed"):
            kind = dither.ScoreFunction if way == "estimator" else dither.REBAR
            return kind(node)(lambda: node(logits).sum(-1))
        return node(logits)

    with pytest.raises((ValueError, FloatingPointError), match=r"-inf|not finite"):
        call()
