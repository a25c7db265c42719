"""Checks that a node must pass: what `exact` and every estimator take for granted of its methods."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from dither.nodes import Node
from dither.testing._unbiased import TOLERANCE, CheckFailed

_SEED = 20  # of all noise here: a node passes for good or fails for good
_ALARM = 1e-9  # of one comparison of a true statement with draws, whatever its probability
_CHUNK = 1 << 20  # logits drawn at a time


def check_node(node: Node, logits: Tensor, *, draws: int = 1 << 18) -> None:
    """Raise CheckFailed unless a node's methods agree with each other, and with what it samples.

    >>> import torch, dither
    >>> logits = torch.tensor([[0.3, -2.0], [1.0, 0.0]], dtype=torch.float64)
    >>> dither.testing.check_node(dither.Bernoulli(values=(-1, 1)), logits)

    logits   (batch, *units), float64 and finite, where every outcome is possible; two examples or more with different logits,
             and two units, so that one that takes another's noise is found.
    draws    of each unit, for "sampling". An error of .0065 in a probability of 1/2 is found at 2^18, a tenth of it at 2^24.
             The seed is fixed; a node that is right fails with probability 1e-9 for each unit and outcome.

    partition      the weights of the parts sum to one; each part's noise gives its unit the same outcome, whatever noise the
                   other units have
    log_prob       of each part's sample is the logarithm of the part's weight
    gradient       of log_prob and of the weights: that of finite differences
    score, probabilities    where the node has them: the gradient of log_prob; e^log_prob of each outcome, together one
    mean           of a discrete node: the sum of probability times output
    kernel         what the node samples by a key is what it samples by the noise of that key
    sampling       by noise as it is drawn: each outcome as often as its weight says, or, for continuous noise, the mean of the
                   output and of its square

    The last one sees a sampler whose probabilities are not those that log_prob and partition say. `exact` cannot: it puts the
    weights that the node declares on outcomes that it has chosen itself.
    """
    if not isinstance(logits, Tensor) or logits.dtype != torch.float64 or not bool(logits.isfinite().all()):
        what = f"{logits.dtype}" if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"logits is {what}: check_node needs finite float64 logits, (batch, *units)")
    logits = logits.detach()
    for name, check in (_DISCRETE if node.discrete else _CONTINUOUS).items():
        check(_Subject(name, node, logits, draws))


class _Subject:
    """A node under one check."""

    def __init__(self, check: str, node: Node, logits: Tensor, draws: int) -> None:
        self.check, self.node, self.logits, self.draws = check, node, logits, draws
        self.noise, self.log_weight = node.partition(logits)
        self.log_weight = self.log_weight.detach()
        self.noise_dims = self.noise.dim() - self.log_weight.dim()

    def require(self, agree: Tensor, what: Callable[[tuple[int, ...]], str]) -> None:
        """Every entry of `agree`; `what` words the first that does not hold, by its place."""
        if not bool(agree.all()):
            raise CheckFailed(self.check, repr(self.node), what(tuple(int(i) for i in (~agree).nonzero()[0])))

    def close(self, actual: Tensor, expected: Tensor, words: str) -> None:
        if actual.shape != expected.shape:
            raise CheckFailed(
                self.check, repr(self.node), f"{words}: shape {tuple(actual.shape)}, expected {tuple(expected.shape)}"
            )
        actual, expected = actual.detach(), expected.detach()
        agree = (actual - expected).abs() <= TOLERANCE * expected.abs().clamp(min=1)
        self.require(agree, lambda at: f"{words}: {float(actual[at]):.12g} at {list(at)}, expected {float(expected[at]):.12g}")

    def noise_of(self, parts: Tensor) -> Tensor:
        """The noise of one part for each unit. parts: (batch, *unit_shape)."""
        index = parts.view(*parts.shape, *[1] * self.noise_dims).expand(self.noise.shape[1:])
        return self.noise.gather(0, index.unsqueeze(0)).squeeze(0)

    def samples(self) -> list[Tensor]:
        """The sample of each part, in all units at once."""
        return [self.node.sample(self.logits, noise) for noise in self.noise]

    def same(self, a: Tensor, b: Tensor) -> Tensor:
        """Per unit, whether two samples are equal."""
        units = self.log_weight.dim() - 1
        return (a == b).reshape(*a.shape[:units], -1).all(-1)


# --- exact ------------------------------------------------------------------------------------------------------------
def _partition(s: _Subject) -> None:
    s.close(s.log_weight.exp().sum(0), torch.ones_like(s.log_weight[0]), "the weights of the parts, exp(log weight), summed")
    if not s.node.discrete:
        return
    alone, generator = s.samples(), torch.Generator().manual_seed(_SEED)
    for _ in range(4 * len(alone)):
        parts = torch.randint(len(alone), s.log_weight.shape[1:], generator=generator, device="cpu", dtype=torch.int64)
        parts = parts.to(s.logits.device)
        mixed = s.node.sample(s.logits, s.noise_of(parts))
        same = torch.stack([s.same(mixed, sample) for sample in alone]).gather(0, parts.unsqueeze(0)).squeeze(0)
        s.require(same, lambda at: f"the sample of unit {list(at)} changes with the noise of other units")


def _log_prob(s: _Subject) -> None:
    for part, sample in enumerate(s.samples()):
        s.close(s.node.log_prob(s.logits, sample), s.log_weight[part], f"log_prob of the sample of part {part}, its log weight")


def _gradient(s: _Subject) -> None:
    def check(f: Callable[[Tensor], Tensor], words: str) -> None:
        if not torch.autograd.gradcheck(f, s.logits.clone().requires_grad_(), raise_exception=False):
            raise CheckFailed(s.check, repr(s.node), f"the gradient of {words} is not that of finite differences")

    check(lambda logits: s.node.partition(logits)[1], "the log weights of partition")
    for part, sample in enumerate(s.samples()):
        check(lambda logits, sample=sample: s.node.log_prob(logits, sample), f"log_prob of the sample of part {part}")


def _score(s: _Subject) -> None:
    for part, sample in enumerate(s.samples() if s.node.has("score") else ()):
        logits = s.logits.clone().requires_grad_()
        expected = torch.autograd.grad(s.node.log_prob(logits, sample).sum(), logits)[0]
        s.close(s.node.score(s.logits, sample), expected, f"score of the sample of part {part}, the gradient of log_prob")


def _probabilities(s: _Subject) -> None:
    if not s.node.has("probabilities"):
        return
    probabilities = s.node.probabilities(s.logits)
    s.close(probabilities.sum(-1), torch.ones_like(s.log_weight[0]), "probabilities, summed")
    for number, outcome in enumerate(s.node.outcomes(s.logits)):
        sample = outcome.expand(*s.log_weight.shape[1:], *outcome.shape)
        words = f"the probability of outcome {number}, e^log_prob of it"
        s.close(probabilities[..., number], s.node.log_prob(s.logits, sample).exp(), words)


def _mean(s: _Subject) -> None:
    outputs = [s.node.output(s.logits, sample) for sample in s.samples()]
    weights = [w.view(*w.shape, *[1] * (o.dim() - w.dim())) for w, o in zip(s.log_weight.exp(), outputs, strict=True)]
    expected = torch.stack([w * o for w, o in zip(weights, outputs, strict=True)]).sum(0)
    s.close(s.node.mean(s.logits), expected, "mean, the sum of weight times output")


# --- drawn ------------------------------------------------------------------------------------------------------------
def _drawn(s: _Subject, logits: Tensor, run: int) -> tuple[Tensor, Tensor]:
    """(what the node gives by a key, what it gives by the noise of that key)."""
    seed, number = (torch.tensor(value, dtype=torch.int64, device="cpu") for value in (_SEED, run))
    keyed = s.node.keyed(logits, seed, 0, number)
    if s.node.discrete:
        return s.node.sample_keyed(logits, keyed), s.node.sample(logits, keyed.draw(logits))
    return s.node.propagate_keyed(logits, keyed).detach(), s.node.propagate(logits, keyed.draw(logits)).detach()


def _kernel(s: _Subject) -> None:
    keyed, drawn = _drawn(s, s.logits.repeat(64, *[1] * (s.logits.dim() - 1)), 0)
    words = "what is sampled by a key, what is sampled by the noise of that key"
    if s.node.discrete:
        s.require(keyed == drawn, lambda at: f"{words}: {float(keyed[at])} at {list(at)}, expected {float(drawn[at])}")
    else:
        s.require(torch.isclose(keyed, drawn, rtol=1e-5, atol=1e-6), lambda at: f"{words}: they differ at {list(at)}")


def _draws(s: _Subject) -> Iterator[Tensor]:
    """What the node samples, by chunks: (copies, batch, ...)."""
    copies = max(1, min(s.draws, _CHUNK // s.logits.numel()))
    many = s.logits.repeat(copies, *[1] * (s.logits.dim() - 1))
    for run in range(math.ceil(s.draws / copies)):
        yield _drawn(s, many, run)[1].unflatten(0, (copies, -1))


def _frequencies(s: _Subject) -> None:
    outcomes, hits, n = s.samples(), torch.zeros_like(s.log_weight), 0
    for samples in _draws(s):
        n += len(samples)
        for part, outcome in enumerate(outcomes):
            hits[part] += (samples == outcome).reshape(len(samples), *s.log_weight.shape[1:], -1).all(-1).sum(0)
    p = s.log_weight.exp()
    log_alarm = math.log(2 / _ALARM)  # Bernstein's inequality, which holds for rare outcomes too
    limit = log_alarm / 3 + (log_alarm**2 / 9 + 2 * n * p * (1 - p) * log_alarm).sqrt()

    def what(at: tuple[int, ...]) -> str:
        return (
            f"unit {list(at[1:])} had the outcome of part {at[0]} in {int(hits[at])} of {n} draws, a rate of "
            f"{float(hits[at]) / n:.5g}, where its weight is {float(p[at]):.5g} (false alarm: {_ALARM:g}): sample and "
            "partition, or log_prob, are of different distributions"
        )

    s.require((hits - n * p).abs() <= limit, what)


def _means(s: _Subject) -> None:
    with torch.no_grad():
        outputs = torch.stack([s.node.propagate(s.logits, noise) for noise in s.noise])
    weights = s.log_weight.exp().view(*s.log_weight.shape, *[1] * (outputs.dim() - s.log_weight.dim()))
    for power in (1, 2):
        expected = (weights * outputs**power).sum(0)
        first, second, n = torch.zeros_like(expected), torch.zeros_like(expected), 0
        for samples in _draws(s):
            values = samples.double() ** power - expected
            first, second, n = first + values.sum(0), second + values.square().sum(0), n + len(values)
        spread = ((second / n - (first / n).square()) / n).clamp(min=0).sqrt()
        error = first / n

        def what(at: tuple[int, ...], error: Tensor = error, spread: Tensor = spread, power: int = power, n: int = n) -> str:
            z = float(error[at] / spread[at])
            return f"E[output^{power}] by partition is off by {float(error[at]):.3g} at {list(at)}, z = {z:.1f} in {n} draws"

        s.require(error.abs() <= 6.1 * spread + TOLERANCE, what)


_CONTINUOUS = {"partition": _partition, "kernel": _kernel, "sampling": _means}
_DISCRETE = {
    "partition": _partition,
    "log_prob": _log_prob,
    "gradient": _gradient,
    "score": _score,
    "probabilities": _probabilities,
    "mean": _mean,
    "kernel": _kernel,
    "sampling": _frequencies,
}
