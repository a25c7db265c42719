"""Declared credit: each declaration against the enumerated gradient, its errors, its check, and masks that change."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dither
from dither import Bernoulli, DisARM, PerNode, ScoreFunction, StraightThrough, exact, testing

DOUBLE, T = torch.float64, 3
GENERATOR = torch.Generator().manual_seed(3)


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=GENERATOR, dtype=DOUBLE)


class Gates(nn.Module):
    """A gate for each position of a sequence of T, and a loss for each."""

    def __init__(self, units: tuple[int, ...] = (T,)) -> None:
        super().__init__()
        self.gate, self.logits = Bernoulli(), nn.Parameter(random(*units))
        self.x, self.weight, self.target = random(1, T), random(T, T), random(1, T)

    def forward(self) -> Tensor:
        h = self.gate(self.logits.unsqueeze(0))
        return h.flatten(2).sum(2) if h.dim() > 2 else h

    def aligned(self) -> Tensor:
        return (self() * self.x - self.target) ** 2

    def causal(self) -> Tensor:
        return ((self() * self.x).cumsum(1) - self.target) ** 2

    def whole(self) -> Tensor:
        return ((self() * self.x) @ self.weight - self.target) ** 2

    def banded(self) -> Tensor:
        """Unit t changes terms t and t + 1."""
        h = self() * self.x
        return (h + F.pad(h, (1, 0))[:, :-1] - self.target) ** 2


class Recurrent(nn.Module):
    """One call of the node for each step."""

    def __init__(self, width: int = 1) -> None:
        super().__init__()
        self.cell, self.up = Bernoulli(), nn.Linear(width, width, dtype=DOUBLE)
        self.x, self.width = random(1, T, width), width

    def forward(self) -> Tensor:
        h, terms = torch.zeros(1, self.width, dtype=DOUBLE), []
        for t in range(T):
            h = self.cell(self.up(h + self.x[:, t]))
            terms.append((h.sum(1) - 0.7) ** 2)
        return torch.stack(terms, 1)


BAND = torch.eye(T, dtype=torch.bool) | torch.eye(T, dtype=torch.bool).roll(1, 1).triu()
DECLARED = {
    "global": (Gates, "global", "whole"),
    "aligned": (Gates, "aligned", "aligned"),
    "causal": (Gates, "causal", "causal"),
    "causal, wider than needed": (Gates, "causal", "aligned"),
    "tensor": (Gates, BAND, "banded"),
    "by name": (Gates, {"gate": "causal"}, "causal"),
    "by pattern": (Gates, {"g*": "aligned", "*": "global"}, "aligned"),
    "several units a position": (partial(Gates, (T, 2)), "causal", "causal"),
    "calls": (Recurrent, "causal", "forward"),
    "calls by name": (Recurrent, {"cell": "causal"}, "forward"),
    "one call by name": (Recurrent, {"cell:2": torch.tensor([[False, False, True]]), "*": "causal"}, "forward"),
    "the rest is traced": (Recurrent, {"cell:2": torch.tensor([[False, False, True]])}, "forward"),
}
ESTIMATORS: dict[str, Callable[..., dither.ScoreFunction | dither.DisARM]] = {
    "score": ScoreFunction,
    "two samples": partial(ScoreFunction, baseline="leave-one-out", samples=2),
    "any order": partial(ScoreFunction, baseline="mean", any_order=True),
    "DisARM": DisARM,
}
LONG: dict[str, Callable[..., dither.ScoreFunction]] = {
    "ARM": dither.ARM,
    "ARMS": dither.ARMS,
    "CARMS": dither.CARMS,
    "NVIL": dither.NVIL,
    "Blend": partial(dither.Blend, kind="control-variate"),
    "LocalExpectation": dither.LocalExpectation,
}  # type: ignore[assignment]


def mean(estimator, closure: Callable[[], Tensor]) -> dict[str, Tensor]:
    return exact.moments(estimator, closure, vectorize=estimator.vectorize, variance=False).mean


@pytest.mark.parametrize("name", DECLARED)
def test_right_declarations_are_unbiased(name: str, request: pytest.FixtureRequest) -> None:
    build, credit, closure = DECLARED[name]
    net = build()
    closure = getattr(net, closure)
    right = exact.gradient(net, closure)
    for how in (
        ESTIMATORS | LONG if request.config.getoption("--long") else {"score": ScoreFunction, "DisARM": DisARM}
    ).values():
        estimator = how(net, credit=credit, vectorize=name != "causal")
        for parameter, gradient in mean(estimator, closure).items():
            torch.testing.assert_close(gradient, right[parameter], rtol=1e-9, atol=1e-10)
    testing.check_credit(ScoreFunction(net, credit=credit), closure, draws=2)


def test_a_declared_closure_is_not_followed() -> None:
    net, runs = Gates(), 0

    def closure() -> Tensor:
        nonlocal runs
        runs += 1
        return net.causal()

    estimator = ScoreFunction(net, credit="causal")
    estimator.examples = "separate"
    estimator(closure)
    assert runs == 1
    net.gate(torch.zeros(1, T, dtype=DOUBLE))


def test_in_per_node_each_estimator_declares_its_own() -> None:
    net = Recurrent()
    estimator = PerNode(net, {"cell": partial(ScoreFunction, credit="causal")})
    right = exact.gradient(net, net)
    for name, gradient in mean(estimator, net).items():
        torch.testing.assert_close(gradient, right[name], rtol=1e-9, atol=1e-10)
    assert estimator.credit_report(net)["cell:1"].influence.int().tolist() == [[0, 1, 1]]
    with pytest.raises(AttributeError, match="declare it there"):
        estimator.credit = "causal"


def test_declared_credit_is_in_compiled_code_what_it_is_outside() -> None:
    net = Gates()
    estimator, compiled = ScoreFunction(net, credit="causal"), torch.compile(net.causal, backend="eager")
    gradients = []
    for closure in (net.causal, compiled):
        torch.manual_seed(0)
        gradients.append(torch.autograd.grad(estimator(closure), net.logits)[0])
    torch.testing.assert_close(*gradients)
    torch.manual_seed(0)
    everything = torch.autograd.grad(ScoreFunction(net, credit="global")(net.causal), net.logits)[0]
    assert not torch.allclose(gradients[0], everything)


WRONG = {
    "aligned": ("aligned", "causal", r"unit . changes term ., .*credit='aligned'.*cumsum \(test_declared_credit"),
    "causal": ("causal", "whole", r"unit . changes term ., .*credit='causal'.*mm \(test_declared_credit"),
    "tensor": (
        torch.eye(T, dtype=torch.bool),
        "banded",
        r"unit . changes term ., .*credit='given'.*add \(test_declared_credit",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_a_declaration_leaves_out_is_told(name: str) -> None:
    credit, closure, message = WRONG[name]
    net = Gates()
    with pytest.raises(testing.CheckFailed, match=rf"node 'gate': {message}"):
        testing.check_credit(ScoreFunction(net, credit=credit), getattr(net, closure))
    biased = mean(ScoreFunction(net, credit=credit), getattr(net, closure))["logits"]
    assert not torch.allclose(biased, exact.gradient(net, getattr(net, closure))["logits"]), "the check is right"


def test_what_only_tracing_finds_is_a_warning() -> None:
    net = Gates()
    with pytest.warns(UserWarning, match=r"by tracing, unit 0 of node 'gate' may reach term 1, .*credit='aligned'"):
        testing.check_credit(ScoreFunction(net, credit="aligned"), lambda: net.aligned() @ torch.eye(T, dtype=DOUBLE))


ERRORS: dict[str, tuple[object, type[Exception], str]] = {
    "name": ("local", ValueError, "credit is 'local'.*'causal'"),
    "type": (3, TypeError, "credit is int"),
    "dtype": (torch.ones(T, T), ValueError, "dtype torch.float32: it must be bool"),
    "dimensions": (torch.ones(T, T, T).bool(), ValueError, "shape .3, 3, 3. and dtype torch.bool"),
    "node": ({"door": "causal"}, ValueError, "'door', which no node is called: the model has gate"),
    "in a dict": ({"gate": "local"}, ValueError, r"credit\['gate'\] is 'local'"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_what_is_no_credit_is_told(name: str) -> None:
    credit, error, message = ERRORS[name]
    with pytest.raises(error, match=message):
        ScoreFunction(Gates(), credit=credit)  # type: ignore[arg-type]


def test_sizes_that_do_not_fit_are_told() -> None:
    net = Gates()
    for credit in ("aligned", "causal"):
        with pytest.raises(ValueError, match=rf"credit='{credit}' of node 'gate' needs a position.*called 1 time with.*\(3,\)"):
            ScoreFunction(net, credit=credit)(lambda: net.causal()[:, :2])
    with pytest.raises(ValueError, match=r"credit of node 'gate' is a tensor of shape \(3, 3\): the node has 3 units.*2 terms"):
        ScoreFunction(net, credit=BAND)(lambda: net.causal()[:, :2])
    square = Recurrent(width=T)
    with pytest.raises(ValueError, match="has two meanings: the node is called 3 times"):
        ScoreFunction(square, credit="causal")(square)
    with pytest.raises(TypeError, match="StraightThrough has no credit to declare"):
        StraightThrough(net).credit = "causal"


SLOW = pytest.mark.filterwarnings("ignore:.*performance drop.*")  # attention in a vmap


# --- masks -----------------------------------------------------------------------------------------------------------------
class Attention(nn.Module):
    """Gates of the values, attention by a mask that may be another in each call, a loss for each position that counts."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.logits = Bernoulli(), nn.Parameter(random(1, T))
        self.x, self.weights = random(1, T, 2), random(3, 2, 2)

    def loss(self, allowed: Tensor, counts: Tensor) -> Tensor:
        x = self.x * (self.gate(self.logits).unsqueeze(2) - 0.3)
        q, k, v = (x @ weight for weight in self.weights)
        out = F.scaled_dot_product_attention(q.unsqueeze(1), k.unsqueeze(1), v.unsqueeze(1), attn_mask=allowed).squeeze(1)
        return torch.where(counts, (out.sum(2) - 0.4) ** 2, 0.0)


@SLOW
def test_a_mask_that_changes_changes_the_credit() -> None:
    """In one estimator, whose calls do the same, by the same line: nothing but the values of the mask tells."""
    net, everything = Attention(), torch.ones(1, T, dtype=torch.bool)
    estimator, causal = ScoreFunction(net), torch.ones(T, T, dtype=torch.bool).tril()
    masks, influences = (causal, causal.T, torch.eye(T, dtype=torch.bool), causal), []
    runs = 0

    def closure() -> Tensor:
        nonlocal runs
        runs += 1
        return net.loss(mask, everything)

    for mask in masks:  # noqa: B007
        torch.testing.assert_close(mean(estimator, closure)["logits"], exact.gradient(net, closure)["logits"])
        influences.append(estimator.credit_report(closure)["gate"].influence)
    assert torch.equal(influences[0], causal.T) and torch.equal(influences[1], causal)
    assert torch.equal(influences[2], masks[2])
    estimator.examples, runs = "separate", 0
    for mask in masks:  # noqa: B007
        estimator(closure)
    assert runs == len(masks), "each mask was followed before, and is known again"


@SLOW
def test_a_mask_that_a_sample_changes_is_no_mask() -> None:
    net = Attention()

    def closure() -> Tensor:
        allowed = (net.gate(net.logits).unsqueeze(1) > 0.5) | torch.eye(T, dtype=torch.bool)
        return net.loss(allowed, torch.ones(1, T, dtype=torch.bool))

    torch.testing.assert_close(mean(ScoreFunction(net), closure)["logits"], exact.gradient(net, closure)["logits"])


@SLOW
def test_padded_positions_cost_nothing_and_are_credited_to_nobody() -> None:
    net, mask = Attention(), torch.ones(T, T, dtype=torch.bool).tril()
    counts = torch.tensor([[True, True, False]])
    closure = lambda: net.loss(mask, counts)  # noqa: E731
    for credit in ("traced", "causal", "global"):
        estimator = ScoreFunction(net, credit=credit)
        gradient = mean(estimator, closure)["logits"]
        torch.testing.assert_close(gradient, exact.gradient(net, closure)["logits"])
        assert gradient[0, 2].abs() < 1e-12 and gradient[0, :2].abs().min() > 1e-4
    moments = exact.moments(ScoreFunction(net, credit="causal"), closure)
    assert moments.variance["logits"][0, 2] == 0, "no noise either"
    terms, whole = (mean(ScoreFunction(net), f)["logits"] for f in (closure, lambda: closure().sum(1) / counts.sum(1)))
    torch.testing.assert_close(terms / counts.sum(), whole)  # the mean over what counts is the sum divided
