"""What every stochastic node shares: where its noise comes from, who may take it over, and what an oracle can ask of it."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from dither import functional, kernels, noise
from dither.nodes import _checkpoint, _deterministic
from dither.noise import Keyed

Sampler = Callable[[Tensor, Any], Tensor]
_FIRST = torch.tensor(0)


class Node(nn.Module):
    """Base of the stochastic nodes: `logits (batch, *units) -> hard sample`, fresh noise at every call, also in `.eval()`.

    With no estimator running, a node back-propagates by `propagate`. While an estimator runs its closure it takes the node
    over (`_handler`), and an oracle may replace the noise (`_source`); both are set by `taken_over`, and undone by it.

    A discrete node draws an *outcome* per unit and emits an output from it. An estimator needs no more than the methods
    below, so a new node works with every estimator, with `exact` and with `testing`.
    """

    discrete: ClassVar[bool]
    noise_kind: ClassVar[Literal["uniform", "normal"]] = "uniform"
    takes_keys: ClassVar[bool] = False  # its methods take `noise.Keyed` too, noise that is not drawn yet
    elementwise: ClassVar[bool] = True  # output[i] depends on logits[i] alone (not: on its whole row or image)
    _handler: Callable[[Node, Tensor], Tensor] | None = None
    _source: Callable[..., Tensor] | None = None
    _name: str = ""  # as it was last found in a model, for messages
    _unseen: bool = False  # an estimator's last call ran it without a graph, as reentrant checkpointing does

    def forward(self, logits: Tensor) -> Tensor:
        check_logits(self, logits)
        answer = _checkpoint.replay(self)
        if answer is not None:
            return answer(logits)
        kind = _deterministic.current()
        if kind is not None:
            return _checkpoint.noted(self.mean if kind == "mean" else self.mode)(logits)
        if self._source is not None:
            _checkpoint.refuse_oracle(self)
        if self._handler is not None:
            return self._handler(self, logits)
        if torch.compiler.is_compiling():
            return self._by_itself(_checkpoint.compiled_seed(), logits)
        return _checkpoint.noted(partial(self._by_itself, noise.draw_seed()))(logits)

    def _by_itself(self, seed: Tensor, logits: Tensor) -> Tensor:
        return self.propagate(logits, self.draw(logits, seed, 0))

    def draw(
        self, logits: Tensor, seed: Tensor, site: int, sample: Tensor | int = 0, own_slices: bool = True
    ) -> Tensor | Keyed:
        """The noise of one call: keyed by (seed, site, sample, example, unit), or what an oracle puts in its place. It is
        only named, not drawn, where the node `takes_keys`."""
        if self._source is not None:
            return self._source(self, logits)
        index = sample if isinstance(sample, Tensor) else _FIRST if sample == 0 else torch.tensor(sample)
        keyed = Keyed(self.noise_kind, seed, site, index, self.noise_shape(logits), logits.device, own_slices)
        return keyed if self.takes_keys else keyed.draw(logits)

    def noise_shape(self, logits: Tensor) -> tuple[int, ...]:
        """Shape of the noise of one call, batch first."""
        return tuple(logits.shape)

    @abstractmethod
    def propagate(self, logits: Tensor, noise: Any, sampler: Sampler | None = None) -> Tensor:
        """The output with a gradient that flows through it: by `sampler`, else by the node's own way."""

    @abstractmethod
    def mean(self, logits: Tensor) -> Tensor:
        """Output of `dither.deterministic("mean")`."""

    @abstractmethod
    def mode(self, logits: Tensor) -> Tensor:
        """Output of `dither.deterministic("mode")`."""

    # For discrete nodes: outcome and log-probability have shape (batch, *unit shape), outcomes possibly one dimension more.
    def outcome(self, logits: Tensor, noise: Any) -> Tensor:
        """The hard outcome, without a gradient."""
        raise NotImplementedError(f"{type(self).__name__} is not discrete")

    def emit(self, logits: Tensor, outcome: Tensor) -> Tensor:
        """The output that an outcome gives; differentiable in the logits where it depends on them for a fixed outcome."""
        raise NotImplementedError(f"{type(self).__name__} is not discrete")

    def log_prob(self, logits: Tensor, outcome: Tensor) -> Tensor:
        """log P(outcome), differentiable in the logits, one value per unit."""
        raise NotImplementedError(f"{type(self).__name__} is not discrete")

    def score(self, logits: Tensor, outcome: Tensor) -> Tensor | None:
        """d log P(outcome) / d logits, the shape of the logits, where each unit's logits are its own; None elsewhere."""
        return None

    def score_weight(self, logits: Tensor, outcome: Tensor) -> Tensor:
        """Squared norm of d log P(outcome) / d logits per unit: the weight of the optimal baseline (Bengio 2013, Eq. 7)."""
        raise NotImplementedError(f"{type(self).__name__} is not discrete")

    def cells(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """A partition of each unit's noise, for oracles: (noise, log weight), each with the cells in a leading dimension.

        For a discrete node one cell per outcome, exact; for a continuous one the points of a quadrature rule.
        noise: (cells, *noise_shape); log weight: (cells, batch, *unit shape), differentiable in the logits.
        """
        raise NotImplementedError(
            f"{type(self).__name__} has no enumeration or quadrature: dither.exact cannot sum over it; "
            "use a long average (audit with reference='average')"
        )


def sampled(sampler: Sampler, logits: Tensor, noise: Tensor | Keyed) -> Tensor:
    """sampler(logits, noise), with noise that is drawn unless this sampler draws by itself."""
    if isinstance(noise, Keyed) and sampler not in functional.KEYED:
        noise = noise.draw(logits)
    return sampler(logits, noise)


def check_logits(node: Node, logits: Tensor) -> None:
    name = f"node '{node._name}', {type(node).__name__}" if node._name else type(node).__name__
    if not isinstance(logits, Tensor) or not logits.is_floating_point():
        kind = logits.dtype if isinstance(logits, Tensor) else type(logits).__name__
        raise TypeError(f"{name}: logits must be a floating-point tensor, got {kind}; convert with logits.float()")
    if logits.dim() == 0:
        raise ValueError(f"{name}: logits is a scalar, its first dimension must be the batch; use logits.reshape(1, 1)")
    if logits.shape[0] == 0:
        raise ValueError(f"{name}: logits has shape {tuple(logits.shape)}, an empty batch; skip the step instead")
    # Inside a transform or on a GPU the test would break the graph or wait for the device: there NaN stays visible,
    # because it passes into the sample, and the estimator finds it in the cost.
    if logits.device.type == "cpu" and is_concrete(logits) and math.isnan(logits.detach().sum()) and logits.isnan().any():
        count = int(logits.isnan().sum())
        raise ValueError(
            f"{name}: {count} of {logits.numel()} logits are NaN (shape {tuple(logits.shape)}); a probability must be a "
            "number (infinite logits are legal). Look for a diverged parameter: lower the learning rate, clip gradients"
        )


def is_concrete(tensor: Tensor) -> bool:
    """Whether Python may look at the values: not while compiling, tracing or recording a CUDA graph, and not inside vmap or
    another transform."""
    if torch.compiler.is_compiling() or is_in_torch_dispatch_mode() or kernels.recording(tensor):
        return False
    return not torch._C._functorch.is_functorch_wrapped_tensor(tensor)  # pyright: ignore[reportAttributeAccessIssue]


def named_nodes(model: nn.Module) -> dict[str, Node]:
    """The nodes of a model by module name; wrappers' prefixes (compile, DistributedDataParallel, in any order) are left
    out, so that state saved from a wrapped model loads into a plain one. A node reached by two names has the first."""
    found: dict[str, Node] = {}
    while isinstance(inner := getattr(model, "_orig_mod", model), nn.parallel.DistributedDataParallel):
        model = inner.module
    for name, module in model.named_modules():
        if isinstance(module, Node):
            module._name = ".".join(part for part in name.split(".") if part != "_orig_mod") or "node"
            found[module._name] = module
    return found


@contextmanager
def taken_over(nodes: Iterable[Node], **roles: Any) -> Iterator[None]:
    """Give each node a `_handler` and/or a `_source`; on leaving, by return or exception, each has its former one back."""
    nodes = list(nodes)
    before = [{role: getattr(node, role) for role in roles} for node in nodes]
    try:
        for node in nodes:
            vars(node).update(roles)  # Module.__setattr__ takes ten times as long
        yield
    finally:
        for node, roles_before in zip(nodes, before, strict=True):
            vars(node).update(roles_before)
