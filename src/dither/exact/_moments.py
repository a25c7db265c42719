"""The exact expectation and variance of an estimator's gradient: sums over the outcomes of all its runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from dither.exact._enumeration import MAX_OUTCOMES, Enumeration, TooManyOutcomes, over, walk
from dither.exact._expectation import Closure, parameter_gradients, trainable
from dither.exact._path import CannotEnumerate, Path
from dither.nodes import cost_alone, eagerly, named_nodes, taken_over

CHUNK = 1 << 14  # outcomes summed at a time: bounds the memory


@dataclass(frozen=True)
class Moments:
    """Exact moments of an estimator's output: per parameter name the mean and variance of its gradient, the expectation
    of the loss's value, and the number of joint outcomes summed."""

    mean: dict[str, Tensor]
    variance: dict[str, Tensor]
    value: Tensor
    outcomes: int


def moments(
    estimator: Any,
    closure: Closure,
    *,
    max_outcomes: int = MAX_OUTCOMES,
    vectorize: bool = True,
    frozen: bool = True,
    variance: bool = True,
) -> Moments:
    """The exact expectation and variance of an estimator's gradient, over all its samples and all examples jointly.

    estimator: any of dither's. Its state (baselines) starts from its present values and is left as it was; with
    frozen=False it may learn during the call, as in training, which shows a baseline that sees its own sample.
    variance=False leaves the variance out, for half the work. The estimator's own output, the gradient of the loss it
    returns, is weighted by the probability of the noise behind it: nothing is sampled. vectorize=False takes outcome after
    outcome, each of which may call other nodes.
    """
    if isinstance(estimator, (type, str)) or not hasattr(estimator, "model"):
        raise TypeError(
            f"estimator is {estimator!r}: one that was built on a model is needed, whose closure this is; build it, such as "
            "dither.DisARM(net)"
        )
    if not vectorize:
        return _walked(estimator, closure, max_outcomes, frozen, variance)
    model, source = estimator.model, Enumeration(joint=True, estimator=estimator)
    run, named = _runner(estimator, closure, source), trainable(model)

    def run_apart(row: Tensor, parameters: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        with _replaced(model, {named[name]: p for name, p in parameters.items()}):
            return run(row)

    value: Any = 0.0
    mean = {name: torch.zeros_like(p) for name, p in named.items()}
    square = {name: torch.zeros_like(p) for name, p in named.items()}
    per_outcome = {name: torch.zeros_like(p) for name, p in named.items()}
    with estimator.frozen() if frozen else _unchanged(estimator):
        rows = _laid_out(estimator, source, run).rows(max_outcomes)
        for part in rows.split(CHUNK):
            losses, log_weights = over(run, part)
            weights = log_weights.exp().to(losses.dtype)
            possible = weights > 0
            value = value + (weights * losses.detach())[possible].sum()
            for name, grad in zip(named, parameter_gradients((weights * losses)[possible].sum(), named.values()), strict=True):
                mean[name] += grad
            if not variance:
                continue
            copies = {n: p.detach().expand(len(part), *p.shape).clone().requires_grad_() for n, p in named.items()}
            losses, _ = over(run_apart, part, copies)
            for name, grad in zip(named, parameter_gradients(losses[possible].sum(), copies.values()), strict=True):
                weight = weights.to(grad.dtype).view(-1, *[1] * (grad.dim() - 1))
                per_outcome[name] += (weight * grad).sum(0)
                square[name] += (weight * grad.square()).sum(0)
    for name, grad in mean.items():
        _require_finite(grad, name)
        tolerance = 1e-6 * float(square[name].max().sqrt() + 1)
        if variance and not torch.allclose(per_outcome[name], grad, rtol=1e-4, atol=tolerance):
            raise ValueError(
                f"the closure uses '{name}' other than through the model (a reference taken before the call), so its gradient "
                "per outcome is out of reach: look parameters up on the model inside the closure"
            )
    spread = {name: (square[name] - mean[name].square()).clamp(min=0) for name in mean} if variance else {}
    return Moments(mean, spread, value, len(rows))


def _walked(estimator: Any, closure: Closure, max_outcomes: int, frozen: bool, variance: bool) -> Moments:
    named = trainable(estimator.model)
    mean, square = ({name: torch.zeros_like(p) for name, p in named.items()} for _ in range(2))
    value: Any = 0.0
    count = 0
    for loss, log_weight in _losses(estimator, closure, max_outcomes, frozen):
        count += 1
        weight = log_weight.exp().to(loss.dtype)
        if not weight > 0:
            continue
        value = value + weight * loss.detach()
        for name, grad in zip(named, parameter_gradients(loss, named.values()), strict=True):
            mean[name] += weight.to(grad.dtype) * grad
            square[name] += weight.to(grad.dtype) * grad.square()
    for name, grad in mean.items():
        _require_finite(grad, name)
    spread = {name: (square[name] - mean[name].square()).clamp(min=0) for name in mean} if variance else {}
    return Moments(mean, spread, value, count)


def _losses(estimator: Any, closure: Closure, max_outcomes: int, frozen: bool = True) -> Iterator[tuple[Tensor, Tensor]]:
    """The estimator's loss and its log-probability for outcome after outcome, each from the state as it is now."""
    source = Enumeration(joint=True, estimator=estimator)
    run = _runner(estimator, closure, source)

    def from_now(path: Path) -> tuple[Tensor, Tensor]:
        if not frozen:
            estimator.load_state_dict({name: tensor.clone() for name, tensor in state.items()}, strict=False)
        return run(path)

    with estimator.frozen() if frozen else _unchanged(estimator):
        with estimator.frozen():
            _laid_out(estimator, source, run)
        state = {} if frozen else {name: tensor.clone() for name, tensor in estimator.state_dict().items()}
        yield from walk(from_now, source, max_outcomes)


def expected_loss(estimator: Any, closure: Closure, *, max_outcomes: int = MAX_OUTCOMES, vectorize: bool = True) -> Tensor:
    """The exact expectation of the loss that an estimator returns, the probabilities held constant: so each of its derivatives,
    of any order, is the expectation of that derivative of the loss. State (baselines) is left as it was.
    """
    if not vectorize:
        losses = [(loss, log_p) for loss, log_p in _losses(estimator, closure, max_outcomes) if log_p > -torch.inf]
        return torch.stack([log_p.exp() * loss for loss, log_p in losses]).sum()
    source = Enumeration(joint=True, estimator=estimator)
    run = _runner(estimator, closure, source)
    with estimator.frozen():
        losses, log_weights = over(run, _laid_out(estimator, source, run).rows(max_outcomes))
    return (log_weights.exp() * losses)[log_weights > -torch.inf].sum()


def outcomes(estimator: Any, closure: Closure, *, vectorize: bool = True) -> int:
    """How many joint outcomes `moments` would sum for this estimator on this closure. vectorize=False walks through them where
    their number depends on the samples, and raises TooManyOutcomes beyond MAX_OUTCOMES."""
    if not vectorize:
        try:
            with torch.no_grad(), _unchanged(estimator):
                return sum(1 for _ in _losses(estimator, closure, MAX_OUTCOMES))
        except TooManyOutcomes as error:
            if error.outcomes > MAX_OUTCOMES + 1:  # they are known, as they do not depend on the samples
                return error.outcomes
            raise
    source = Enumeration(joint=True, estimator=estimator)
    run = _runner(estimator, closure, source)
    with _unchanged(estimator), estimator.frozen():
        return _laid_out(estimator, source, run).outcomes()


def _runner(estimator: Any, closure: Closure, source: Enumeration) -> Callable[[Tensor | Path | None], tuple[Tensor, Tensor]]:
    """row of parts -> (the estimator's loss for it, the logarithm of its probability); None notes what is sampled."""
    nodes, closure = named_nodes(estimator.model), cost_alone(closure)
    if source.oracle.refusal:
        raise CannotEnumerate(f"{type(estimator).__name__} {source.oracle.refusal}")
    if any(isinstance(p, UninitializedParameter) for p in estimator.parameters()):
        with torch.random.fork_rng(devices=[]), estimator.frozen():
            estimator(closure)  # a lazy baseline learns its sizes

    def run(row: Tensor | Path | None) -> tuple[Tensor, Tensor]:
        source.start(row)
        with taken_over(nodes.values(), source=source):
            loss = eagerly(estimator, closure)  # compiled code does not see a source
        source.finish()
        return loss, source.log_weight().detach()

    return run


def _laid_out(estimator: Any, source: Enumeration, run: Callable[[None], Any]) -> Enumeration:
    """The source after a run that noted its layout; a first one lets the estimator learn how many runs it will make."""
    with torch.no_grad() if not getattr(estimator, "needs_sample_gradients", False) else torch.enable_grad():
        if getattr(estimator, "runs_depend_on_layout", False) or getattr(estimator, "local_credit", False):
            run(None)
        run(None)
    return source


@contextmanager
def _replaced(model: nn.Module, tensors: Mapping[nn.Parameter, Tensor]) -> Iterator[None]:
    """Lets every outcome have parameters, and so a gradient, of its own. (torch.func.functional_call does not put a module
    that has two names in the model back as it was.)"""
    held = [(m, name, p) for m in model.modules() for name, p in m._parameters.items() if p is not None and p in tensors]
    try:
        for module, name, parameter in held:
            module._parameters[name] = tensors[parameter]  # type: ignore[assignment]
        yield
    finally:
        for module, name, parameter in held:
            module._parameters[name] = parameter


@contextmanager
def _unchanged(estimator: Any) -> Iterator[None]:
    state = {name: tensor.clone() for name, tensor in estimator.state_dict().items()}
    try:
        yield
    finally:
        estimator.load_state_dict(state, strict=False)  # what takes its size at the first call is in no state before


def _require_finite(grad: Tensor, name: str) -> None:
    if not bool(torch.isfinite(grad).all()):
        raise ValueError(
            f"the gradient of '{name}' is not finite for some outcome: the estimator uses the noise beyond the outcome that it "
            "gives (as Gumbel-softmax does), so that a sum over outcomes is not its expectation; estimate it by a long average"
        )
