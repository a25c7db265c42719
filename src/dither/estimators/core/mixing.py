"""Whether examples keep to themselves: whether what is sampled for some changes the costs of others.

An estimator that credits a sample by the cost of its own example takes for granted that it does not. No shape tells: of
time-first logits (time, batch, units) where time equals the batch, of batch normalisation in training mode behind a node, of
costs that compare the examples of a batch. So at its first call a closure is run a few times more: by the same noise, except
that some examples' is drawn anew. The costs of the others must stay as they are.

Random numbers of torch, numpy and Python are afterwards what they were, and so are the buffers of the modules that the closure
or the estimator names. Anything else that a closure changes (a generator of its own, an iterator, a list) has seen these runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch._C import _functorch  # type: ignore[attr-defined]
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from dither import noise
from dither.estimators.core.closures import buffers_kept, modules_of, written
from dither.estimators.core.randomness import Randomness
from dither.estimators.core.ranks import world
from dither.estimators.core.site import Closure, checked_cost
from dither.estimators.core.structure import Watch
from dither.nodes import Node, eagerly, present_rows, running, taken_over

_MOST = 12  # partitions, where few samples were others, each by other samples from the start
_TRIES = 3  # partitions into halves at most: each half's samples are drawn anew in turn
_FEW = 8  # examples: so many that all partitions by a bit of their places are tried
_APART = 32  # examples in all the partitions tried, at least: one that pairs depend on misses them in 2^(-16) of all cases
_ENOUGH = 8  # samples of each half that were others: then no more is tried
_CALLS = 3  # to look at, where no sample was another: of a net that is certain of all it does
_SEEDS = 0x5EED, 0x0DD5  # so that none of the user's are drawn; a seed for each partition from the second on


class Plan(Protocol):
    """What is asked of an estimator."""

    model: nn.Module
    nodes: dict[str, Node]

    def credits(self, node: Node) -> bool: ...


class Redrawn:
    """A run of a closure whose nodes sample by the noise of the first seed, and where `where` says so by that of the second.

    where(node, logits): (rows,) bool, or None for nowhere. costs: (batch, terms). changed: how many samples were others.
    """

    def __init__(
        self,
        nodes: Mapping[str, Node],
        closure: Closure,
        where: Callable[[Node, Tensor], Tensor | None],
        seeds: tuple[int, int],
    ) -> None:
        self.changed, self.calls, self.eps = 0, 0, 0.0
        self._where, self._seeds = where, [torch.tensor(seed, dtype=torch.int64, device="cpu") for seed in seeds]
        with taken_over(nodes.values(), handler=self._unwatched, only="a look at its examples"):
            self.costs = checked_cost(closure()).detach()
        self.eps = max(self.eps, torch.finfo(self.costs.dtype).eps)

    def _unwatched(self, node: Node, logits: Tensor) -> Tensor:
        with torch._C.DisableTorchFunction():  # how samples are drawn is no part of the closure
            return self._output(node, logits)

    def _output(self, node: Node, logits: Tensor) -> Tensor:
        self.calls += 1
        self.eps = max(self.eps, torch.finfo(logits.dtype).eps)
        first, second = (node.keyed(logits, seed, self.calls - 1).draw(logits) for seed in self._seeds)
        here = self._where(node, logits)
        drawn = first
        if here is not None:
            drawn = torch.where(here.view(-1, *[1] * (first.dim() - 1)), _other(node, first, second), first)
        if not node.discrete:
            return node.propagate(logits, drawn)
        sample = node.sample(logits, drawn)
        if here is not None:
            self.changed += int((sample != node.sample(logits, first)).sum())
        return node.output(logits, sample)


def _other(node: Node, first: Tensor, second: Tensor) -> Tensor:
    """Other noise than the first: its opposite for a random half of the units, which changes more samples than independent
    noise does, and independent noise for the rest, as opposites all together might change nothing."""
    if node.noise_kind == "normal":
        return torch.where(second < 0, -first, second)
    independent = (2 * second - 1).clamp(min=torch.finfo(second.dtype).tiny)
    return torch.where(second < 0.5, (1 - first).clamp(max=noise.LARGEST), independent)


class Mixing:
    """What is known of an estimator's closures, by where they are written and whether the model is in training mode."""

    def __init__(self) -> None:
        self._known: dict[Any, int | None] = {}
        self._tried: dict[Any, int] = {}
        self._single: frozenset[Any] = frozenset()  # seen with one example only
        self.batch = 1  # of the last call
        self.terms: int | None = None  # of the cost, where it was looked at

    def example(self, plan: Plan, closure: Closure) -> tuple[int | None, bool]:
        """(an example whose cost depends on the samples of others, None if there is none to be seen; whether this is news).

        Where it cannot be looked at nothing is known, and nothing said: in compiled code, transforms and fake tensors, without
        gradients, under an oracle, within another estimator's closure, for closures that raise, and for one example."""
        if torch.compiler.is_compiling():
            return None, False
        key = (*written(closure), plan.model.training)
        news = key not in self._known
        if news:
            if self.batch == 1 and key in self._single:  # to see whether there are several now costs a run: at the next call
                return None, False
            if not _can_look(plan):
                return None, False
            look = _Look(plan, closure)
            with buffers_kept([plan.model, *modules_of(closure)]):
                eagerly(look.look)
            if look.batch == 1 and not look.several:  # ranks look alike
                self.batch, self._single = 1, self._single | {key}
                return None, False
            self.terms = look.terms
            self._tried[key] = self._tried.get(key, 0) + 1
            if look.example is not None or look.changed > 0 or self._tried[key] >= _CALLS or look.several:
                self._known[key] = look.example
        return self._known.get(key), news


def _can_look(plan: Plan) -> bool:
    if not torch.is_grad_enabled() or running() is not None:
        return False
    if _functorch.maybe_current_level() is not None or is_in_torch_dispatch_mode():
        return False
    if torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing():
        return False
    return all(node._source is None for node in plan.nodes.values())


class _Look:
    """One look at a closure. example: as of `Mixing.example`; possible: whether there was anything to compare; changed: how
    many samples were others, of the half with fewer."""

    def __init__(self, plan: Plan, closure: Closure) -> None:
        self.plan, self.closure, self.random = plan, closure, Randomness()
        self.example: int | None = None
        self.possible, self.changed, self.draws = False, 0, False
        self.several = world() > 1  # then all make as many runs, for the sake of what they do together in them
        self.seeds, self.batch = _SEEDS, 0
        self.terms: int | None = None
        self.random.remember()

    def look(self) -> None:
        try:
            self.first = self._run(None)
            self.batch, self.terms = self.first.costs.shape
            self.possible = self.batch > 1 and bool(torch.isfinite(self.first.costs).all())
            if self.possible or self.several:
                self._compare()
        except Exception:  # the call itself will tell
            self.possible = False

    def _compare(self) -> None:
        self.ids = noise.example_ids(self.batch, self.first.costs.device)
        changed = [0, 0]
        needed = 1 if self.several else _needed(self.batch)
        for number in range(1 if self.several else _MOST):
            first = _half(self.ids, number)
            self.seeds = _SEEDS[0] + (number << 16), _SEEDS[1] + number
            if number:
                self.first = self._run(None)
            for side, half in enumerate((first, self.ids[~torch.isin(self.ids, first)])):
                other = self._run(half)
                changed[side] += other.changed
                suspects = self._differ(self.first, other) & ~torch.isin(self.ids, half)
                suspected = self.possible and bool(suspects.any())
                confirmed = self._confirmed(half, other) if self.several or suspected else False
                if suspected and confirmed:
                    self.example = int(suspects.nonzero()[0])
            enough = _ENOUGH if number + 1 < _TRIES or self.batch > _FEW else 2 * self.batch
            if self.example is not None or (number + 1 >= needed and min(changed) >= enough):
                break
        self.changed = min(changed)

    def _run(self, half: Tensor | None, watch: Watch | None = None) -> Redrawn:
        """half: the ids of the examples whose samples are drawn anew."""

        def where(node: Node, logits: Tensor) -> Tensor | None:
            if half is None or not self.plan.credits(node):
                return None
            rows = present_rows()
            if rows is None and len(logits) != self.batch:
                return None
            drawn = torch.isin(self.ids, half).to(logits.device)
            return drawn if rows is None else drawn[rows.index]

        with self.random.repeated(0), watch or nullcontext():
            run = Redrawn(self.plan.nodes, self.closure, where, self.seeds)
            self.draws |= self.random.moved(0)
        return run

    def _differ(self, one: Redrawn, other: Redrawn) -> Tensor:
        """(batch,) bool: whose costs differ, by more than rounding."""
        a, b = one.costs.double(), other.costs.double()
        tolerance = max(one.eps, other.eps) ** (2 / 3) * (a.abs() + b.abs() + a.abs().mean(0))
        return ~((a - b).abs() <= tolerance).all(1)

    def _confirmed(self, half: Tensor, other: Redrawn) -> bool:
        """Whether the same two runs give the same costs again, so that the samples alone made the difference. And a closure
        that draws numbers itself must make calls of the same shapes in both, else its numbers go to other examples."""
        watches = Watch(), Watch()
        second, first = self._run(half, watches[1]), self._run(None, watches[0])  # in this order: a closure may alternate
        again = not bool((self._differ(self.first, first) | self._differ(other, second)).any())
        return again and (not self.draws or watches[0].structure() == watches[1].structure())


def _needed(batch: int) -> int:
    """Partitions after which examples that depend on each other have been apart in one: surely where there are few of them,
    twice, as other samples may make no difference by chance; and else most probably."""
    return 2 * (batch - 1).bit_length() if batch <= _FEW else min(_TRIES, -(-_APART // batch))


def _half(ids: Tensor, number: int) -> Tensor:
    """Half of the examples: by a bit of their places, or by chance, as no pattern is the right one for all ways of mixing."""
    places = torch.arange(len(ids), dtype=torch.int64, device="cpu")
    if len(ids) <= _FEW:
        here = (places >> number % max(1, (len(ids) - 1).bit_length())) % 2 == 0
    else:
        own = torch.Generator("cpu").manual_seed(number)
        here = torch.randperm(len(ids), generator=own, dtype=torch.int64, device="cpu") < len(ids) // 2
    return ids[here.to(ids.device)]
