from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch._C import _functorch  # type: ignore[attr-defined]

from dither import kernels
from dither.estimators._baselines import Baseline, BaselineName, LeaveOneOut, RunningMean, Zero, per_logit
from dither.estimators._call import Call
from dither.estimators._estimator import Estimator
from dither.estimators._packed_site import PackedSite, Segment, broadcast
from dither.estimators._score_function import ScoreFunction
from dither.estimators._site import Closure, Site
from dither.functional._bernoulli import attach
from dither.nodes import Bernoulli, Node, _checkpoint
from dither.noise import Keyed

Keep = Literal["logits", "bits"]


@dataclass
class _Seen:
    """A tensor of the present run, by what made it: a node (packed bits, number of its site) or a Linear."""

    tensor: weakref.ref[Tensor]
    version: int
    packed: Tensor | None = None
    site: int = -1
    segment: Segment | None = None


class ForwardOnly(ScoreFunction):
    """The score function's gradient for feed-forward stochastic nets, with decisions kept as bits and nothing sent backward.

    Estimates   what ScoreFunction estimates, from the same noise: d E[L] / d theta; unbiased. "The unbiased estimator only
                requires broadcasting L, no back-propagation and only local computation" (Bengio 2013, Sec. 4).
    Formula     for a layer a = W h + c: d / d W = (L - b) (h' - sigmoid(a)) h^T, mean over K samples and the batch.
    How         a `torch.nn.Linear` behind a `Bernoulli` works on packed bits, 1/32 of the bytes and a quarter of the additions;
                where it also stands before one, that layer keeps the bits of its input and output and no graph. Other segments
                (convolutions, several layers, what leads to the cost) keep their own local graph, as under ScoreFunction.
    Memory      batch x units / 8 bytes for a stochastic layer, and with keep="logits" batch x units x 4 more.
    keep        "logits" for speed; "bits" computes them a second time when the gradient is taken.
    Requires    samples evaluations of the closure; any cost. Linear layers are recognised when they are called as modules of
                the model, on what a node gave them, without hooks that look at their input's values. Code that `torch.compile`
                made keeps its own products, in an ordinary graph.
    baseline, samples, decay, split_sums, vectorize, Raises: as for ScoreFunction.
    Reference   Bengio 2013, Theorem 1, Sec. 4.
    """

    reference = "Bengio 2013, Theorem 1 and Sec. 4"

    def __init__(
        self,
        model: nn.Module,
        baseline: BaselineName | nn.Module | Baseline | None = None,
        samples: int = 1,
        *,
        keep: Keep = "logits",
        decay: float = 0.99,
        split_sums: bool = False,
        vectorize: bool = True,
    ) -> None:
        super().__init__(model, baseline, samples, decay=decay, split_sums=split_sums, vectorize=vectorize)
        if keep not in ("logits", "bits"):
            raise ValueError(f"keep is {keep!r}: it must be 'logits' (faster) or 'bits' (less memory)")
        self.keep = keep
        # The same objects for good, so that compiled models are not compiled again.
        self._linears = {m: partial(self._linear, m) for m in model.modules() if type(m) is nn.Linear}
        self._forwards: dict[nn.Linear, Callable[[Tensor], Tensor]] = {}
        self._seen: dict[int, _Seen] = {}
        self._segments: list[Segment | None] = []

    @classmethod
    def configurations(cls) -> dict[str, Callable[[nn.Module], Estimator]]:
        kinds: tuple[tuple[str | None, int, Keep], ...] = (
            (None, 1, "bits"),
            ("mean", 2, "logits"),
            ("optimal", 1, "bits"),
            ("optimal", 2, "logits"),
            ("leave-one-out", 2, "bits"),
            ("leave-one-out", 3, "logits"),
        )
        return {f"{cls.__name__}-{b}-{k}-{keep}": partial(cls, baseline=b, samples=k, keep=keep) for b, k, keep in kinds}

    # --- the forward pass ---------------------------------------------------------------------------------------------
    def _once(self, closure: Closure, run: Tensor, handler: Callable[[Node, Tensor], Tensor]):
        if handler != self._handler:  # a search for what depends on what: it must see ordinary operations
            return super()._once(closure, run, handler)
        self._seen, self._segments = {}, []
        with self._linears_taken_over():
            found = super()._once(closure, run, handler)
        self._seen = {}
        return found

    @contextmanager
    def _linears_taken_over(self) -> Iterator[None]:
        self._forwards = {linear: vars(linear)["forward"] for linear in self._linears if "forward" in vars(linear)}
        try:
            for linear, taken in self._linears.items():
                vars(linear)["forward"] = taken
            yield
        finally:
            for linear in self._linears:
                vars(linear).pop("forward")
                vars(linear).update({"forward": self._forwards[linear]} if linear in self._forwards else {})

    def _linear(self, linear: nn.Linear, x: Tensor) -> Tensor:
        # What is compiled, or will be computed again at backward by a module that is no longer taken over, stays as it is.
        if torch.compiler.is_compiling() or _checkpoint.in_region():
            return nn.Linear.forward(linear, x)
        forward = self._forwards.get(linear) or partial(nn.Linear.forward, linear)
        given = self._recall(x)
        same = x.dtype == linear.weight.dtype or torch.is_autocast_enabled(x.device.type)  # bits are exact in every dtype
        if given is None or given.packed is None or x.dim() != 2 or not same:
            output = forward(x)
            # Several runs might each have values of their own.
            if self.samples == 1 and x.dim() == 2 and x.dtype == output.dtype == linear.weight.dtype and not x.requires_grad:
                self._note(output, segment=Segment(linear, values=x))
            return output
        output = kernels.packed_linear(given.packed, linear.weight, linear.bias)
        self._note(output, segment=Segment(linear, site=given.site))
        return output

    def answer(self, call: Call) -> tuple[Tensor, Tensor | None]:
        node, logits = call.node, call.logits
        apart = torch.compiler.is_compiling() or _checkpoint.in_region()
        if apart or type(node) is not Bernoulli or node.values != (0, 1) or logits.dim() < 2:
            if node.discrete:
                self._segments.append(None)
            return super().answer(call)
        noise = call.keyed()
        if isinstance(noise, Keyed):
            h, packed = kernels.bernoulli_packed(logits, noise.key)
        else:
            h = node.outcome(logits, noise)
            packed = kernels.pack(h.flatten(1))
        from_linear = self._recall(logits)
        self._segments.append(Segment() if from_linear is None or from_linear.segment is None else from_linear.segment)
        self._note(h, packed=packed, site=call.index)
        return h, packed

    def _note(self, tensor: Tensor, **made: Any) -> None:
        self._seen[id(tensor)] = _Seen(weakref.ref(tensor), _version(tensor), **made)

    def _recall(self, tensor: Tensor) -> _Seen | None:
        """What made this very tensor, if nothing has changed it since."""
        seen = self._seen.get(id(tensor))
        return seen if seen is not None and seen.tensor() is tensor and seen.version == _version(tensor) else None

    def _on_node(self, node: Node, logits: Tensor) -> Tensor:
        output = super()._on_node(node, logits)
        if self._drawn and self._segments and self._drawn[-1][0] is node and self._drops(self._segments[-1]):
            drawn = self._drawn[-1]
            shape_only = torch.zeros((), dtype=logits.dtype, device=logits.device).expand(tuple(logits.shape))
            self._drawn[-1] = (drawn[0], shape_only, *drawn[2:])
        return output

    def _drops(self, segment: Segment | None) -> bool:
        return self.keep == "bits" and segment is not None and segment.linear is not None

    def _run_as_planned(self, closure: Closure) -> tuple[Tensor, list[Site]]:
        costs, sites = super()._run_as_planned(closure)
        packed: list[Site] = []
        for site, segment in zip(sites, self._segments, strict=True):
            before = packed[segment.site] if segment is not None and segment.site >= 0 else None
            packed.append(site if segment is None else PackedSite(site, segment, before, self._drops(segment)))
        self._segments = []
        return costs, packed

    # --- the gradient -------------------------------------------------------------------------------------------------
    def assemble(self, costs: Tensor, sites: list[Site]) -> Tensor:
        shared = self._shared_advantage(costs.detach(), sites)
        if shared is None:
            parts = [part for site in sites if (part := self.surrogate(site, costs.detach())) is not None]
        else:
            parts = [broadcast(site, shared) for site in sites if isinstance(site, PackedSite)]
        loss = self.value(costs).mean()
        return attach(loss, torch.stack(parts).sum().to(loss.dtype)) if parts else loss

    def _shared_advantage(self, costs: Tensor, sites: list[Site]) -> Tensor | None:
        """(L - b) / (K batch), (K batch, 1), where it is the same for all sites: then it is computed once."""
        one_for_all = isinstance(self.baseline, Zero | LeaveOneOut | RunningMean)
        if not sites or not one_for_all or any(s.influence is not None or not isinstance(s, PackedSite) for s in sites):
            return None
        first, averages = sites[0], getattr(self.baseline, "averages", {})
        if any(len(s.shape) != len(first.shape) or averages.get(s.name) is not averages.get(first.name) for s in sites):
            return None
        credit = first.credit(costs)
        advantage = (credit - self.baseline.value(first, credit)) / credit.numel()
        if self.learning and torch.is_grad_enabled():
            self.baseline.update(first, credit)
            if isinstance(self.baseline, RunningMean):
                self.baseline.averages.update(dict.fromkeys((s.name for s in sites), self.baseline.averages[first.name]))
        return advantage.view(-1, 1)

    def _surrogate(self, site: Site, credit: Tensor, baseline: Tensor | float) -> Tensor:
        if not isinstance(site, PackedSite):
            return super()._surrogate(site, credit, baseline)
        if isinstance(baseline, Tensor) and baseline.dim() != len(site.shape) - 2:
            baseline = per_logit(baseline, site)
        return broadcast(site, ((credit - baseline) / credit.shape[:2].numel()).flatten(0, 1).flatten(1))


def _version(tensor: Tensor) -> int:
    """How often it was changed in place; the wrapper that a vmap puts around it does not count."""
    while _functorch.is_functorch_wrapped_tensor(tensor):
        tensor = _functorch.get_unwrapped(tensor)
    return tensor._version
