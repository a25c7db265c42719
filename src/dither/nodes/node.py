"""What every stochastic node is: logits in, a hard sample out, and what an estimator or an oracle may ask of it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from dither import noise
from dither.kernels import Key
from dither.nodes import checkpoint, determinism, takeover
from dither.nodes.batch_rows import require_rows
from dither.nodes.checks import check_logits
from dither.noise import Keyed
from dither.settings import Configured

Sampler = Callable[[Tensor, Tensor], Tensor]  # (logits, noise) -> sample
Kernel = Callable[[Tensor, Key], Tensor]  # (logits, key of the noise) -> sample
_FIRST = torch.tensor(0, dtype=torch.int64, device="cpu")

CAPABILITIES = {
    "score": "d log P(sample) / d logits in closed form, where each unit's logits are its own",
    "probabilities": "the probabilities of a unit's outcomes, which are few",
    "relaxation": "a continuous relaxation of its sample, also given the sample",
    "binary": "binary units, 1[u < sigmoid(a)] of a logit a and a uniform u",
    "one_hot": "one-hot samples over the last dimension, the argmax of a + Gumbel(u)",
}


class Node(Configured, nn.Module):
    """Base of the stochastic nodes: `logits (batch, *units) -> hard sample`, fresh noise at every call, also in `.eval()`.

    With no estimator running, a node backpropagates by `propagate`. While an estimator runs its closure it takes the node
    over, and an oracle may replace its noise (`takeover`).

    What estimators, `dither.exact` and `dither.testing` may ask of a node stands here, and is all that they ask. Every node has
    `propagate`, `mean`, `mode`, `partition`; a discrete one also `sample`, `output`, `log_prob`. The rest are *capabilities*
    (CAPABILITIES): a node has one by defining the method or attribute of that name, and an estimator names those that it
    `requires`. So a new node is taken by every estimator whose needs it meets.

    Shapes: logits, samples and noise have the batch first. A unit is what has a log-probability of its own: a bit, or a one-hot
    vector with its whole last dimension; "per unit" is (batch, *unit_shape).
    """

    discrete: ClassVar[bool]
    noise_kind: ClassVar[Literal["uniform", "normal"]] = "uniform"
    elementwise: ClassVar[bool] = True  # output[i] depends on logits[i] alone (not: on its whole row or image)
    binary: ClassVar[bool] = False
    one_hot: ClassVar[bool] = False
    score_broadcasts: ClassVar[bool] = False  # `score` takes samples (K, batch, ...) of logits (batch, ...) too
    straight_through: ClassVar[Sampler | None] = None  # the sampler with the derivative of the mean; None: `propagate`'s own
    _compiled_handler: Callable[[Node, Tensor], Tensor] | None = None  # what compiled code sees of a takeover
    _name: str = ""  # its name in the model in which it was last looked up, for messages
    _unseen: bool = False  # an estimator's last call ran it without a graph, as reentrant checkpointing does

    def forward(self, logits: Tensor) -> Tensor:
        check_logits(self, logits)
        require_rows(self, len(logits))
        if torch.compiler.is_compiling():
            return self._compiled(logits)
        replayed = checkpoint.replay(self)
        if replayed is not None:
            return replayed(logits)
        kind = determinism.current()
        if kind is not None:
            return checkpoint.noted(self.mean if kind == "mean" else self.mode)(logits)
        role = takeover.role_of(self)
        if role.source is not None:
            checkpoint.refuse_oracle(self)
        if role.handler is not None:
            return role.handler(self, logits)
        return checkpoint.noted(partial(self._by_itself, noise.draw_seed()))(logits)

    def _compiled(self, logits: Tensor) -> Tensor:
        """`forward` in compiled code, where an operator takes notes for checkpoints."""
        kind = determinism.current()
        if kind is not None:
            return self.mean(logits) if kind == "mean" else self.mode(logits)
        handler = takeover.role_of(self).handler
        return self._by_itself(checkpoint.compiled_seed(), logits) if handler is None else handler(self, logits)

    @property
    def _handler(self) -> Callable[[Node, Tensor], Tensor] | None:
        return takeover.present_role(self).handler

    @property
    def _source(self) -> Callable[..., Tensor] | None:
        return takeover.present_role(self).source

    def extra_repr(self) -> str:
        return self.written()

    @property
    def label(self) -> str:
        """How messages call it."""
        return f"node '{self._name}', {type(self).__name__}" if self._name else type(self).__name__

    def has(self, capability: str) -> bool:
        """Whether it has one of CAPABILITIES."""
        return getattr(type(self), capability) is not getattr(Node, capability)

    # --- its noise --------------------------------------------------------------------------------------------------------
    def noise_shape(self, logits: Tensor) -> tuple[int, ...]:
        """Shape of the noise of one call, batch first."""
        return tuple(logits.shape)

    def keyed(self, logits: Tensor, seed: Tensor, site: int, sample: Tensor | int = 0, slices_differ: bool = True) -> Keyed:
        """The noise of one call by its key (seed, site, sample, example, unit), not drawn yet."""
        if not isinstance(sample, Tensor):
            sample = _FIRST if sample == 0 else torch.tensor(sample, dtype=torch.int64, device="cpu")
        return Keyed(self.noise_kind, seed, site, sample, self.noise_shape(logits), logits.device, slices_differ)

    def propagate_keyed(self, logits: Tensor, noise: Keyed, sampler: Sampler | None = None) -> Tensor:
        """`propagate` by noise that its kernel draws on the fly, where it has one, or by that of an oracle."""
        if (source := self._source) is not None:
            return self.propagate(logits, source(self, logits), sampler)
        kernel = self.kernel(sampler)
        return self.propagate(logits, noise.draw(logits), sampler) if kernel is None else kernel(logits, noise.key)

    def sample_keyed(self, logits: Tensor, noise: Keyed) -> Tensor:
        """`sample`, likewise."""
        if (source := self._source) is not None:
            return self.sample(logits, source(self, logits))
        kernel = self.sampling_kernel()
        return self.sample(logits, noise.draw(logits)) if kernel is None else kernel(logits, noise.key)

    def kernel(self, sampler: Sampler | None) -> Kernel | None:
        """What computes `propagate(logits, noise, sampler)` and draws the noise by its key meanwhile; None: nothing does."""
        return None

    def sampling_kernel(self) -> Kernel | None:
        """What computes `sample(logits, noise)` and draws the noise by its key meanwhile; None: nothing does."""
        return None

    def _by_itself(self, seed: Tensor, logits: Tensor) -> Tensor:
        return self.propagate_keyed(logits, self.keyed(logits, seed, 0))

    # --- every node -------------------------------------------------------------------------------------------------------
    def propagate(self, logits: Tensor, noise: Tensor, sampler: Sampler | None = None) -> Tensor:
        """The output with a gradient that flows through it: by `sampler`, else by the node's own way."""
        raise NotImplementedError(f"{type(self).__name__} defines no propagate(logits, noise, sampler)")

    def mean(self, logits: Tensor) -> Tensor:
        """E[output], differentiable: the output of `dither.deterministic("mean")`."""
        raise NotImplementedError(f"{type(self).__name__} defines no mean(logits)")

    def mode(self, logits: Tensor) -> Tensor:
        """The likeliest output: that of `dither.deterministic("mode")`."""
        raise NotImplementedError(f"{type(self).__name__} defines no mode(logits)")

    def partition(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """A partition of each unit's noise, for oracles: (noise, log weight), its parts in a leading dimension of both.

        For a discrete node one part for each outcome, exact; for a continuous one the nodes of a quadrature rule.
        noise: (parts, *noise_shape); log weight: (parts, batch, *unit_shape), differentiable in the logits.
        """
        raise NotImplementedError(
            f"{type(self).__name__} has no enumeration or quadrature: dither.exact cannot sum over it; "
            "use a long average (audit with reference='average')"
        )

    def mean_vjp(self, logits: Tensor, gradient: Tensor) -> Tensor:
        """The Jacobian product of the mean, (d mean / d logits)' gradient, without a graph. gradient: shaped as the output."""
        vjp = torch.func.vjp(self.mean, logits.detach())[1]
        return vjp(gradient.to(logits.dtype))[0]

    # --- every discrete node ----------------------------------------------------------------------------------------------
    def unit_shape(self, logit_shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the units of logits of this shape, both without the batch."""
        return logit_shape

    def sample(self, logits: Tensor, noise: Tensor) -> Tensor:
        """The hard sample, without a gradient. A NaN logit gives a NaN sample: where Python may not look at values, inside a
        vmap or on a GPU, it has to be seen in the cost."""
        raise NotImplementedError(f"{type(self).__name__} is not discrete")

    def output(self, logits: Tensor, sample: Tensor) -> Tensor:
        """The output for a sample; differentiable in the logits where it depends on them for a fixed sample."""
        return sample

    def log_prob(self, logits: Tensor, sample: Tensor) -> Tensor:
        """log P(sample), differentiable in the logits, per unit."""
        raise NotImplementedError(f"{type(self).__name__} is not discrete")

    def score_weight(self, logits: Tensor, sample: Tensor) -> Tensor:
        """Squared norm of d log P(sample) / d logits per unit: the weight of the optimal baseline (Bengio 2013, Eq. 7)."""
        square = self.score(logits, sample).square()
        units = len(self.unit_shape(tuple(logits.shape[1:]))) + 1
        return square.flatten(units).sum(-1) if square.dim() > units else square

    # --- capabilities -----------------------------------------------------------------------------------------------------
    def score(self, logits: Tensor, sample: Tensor) -> Tensor:
        """d log P(sample) / d logits, the shape of the logits and of the sample, without a graph. A node that has it lets its
        output depend on the logits through the sample alone."""
        raise NotImplementedError(f"{type(self).__name__} has no score in closed form")

    def probabilities(self, logits: Tensor) -> Tensor:
        """P of each outcome of a unit, (batch, *unit_shape, outcomes), differentiable."""
        raise NotImplementedError(f"{type(self).__name__} does not list its outcomes")

    def outcomes(self, logits: Tensor) -> Tensor:
        """A unit's sample for each outcome, in the order of `probabilities`: (outcomes,) or (outcomes, length of a vector)."""
        raise NotImplementedError(f"{type(self).__name__} does not list its outcomes")

    def relaxation(self, logits: Tensor, noise: Tensor) -> Tensor:
        """z, differentiable in the logits, of the noise that draws the sample: the sample is `soften(z, temperature)` in the
        limit of temperature 0."""
        raise NotImplementedError(f"{type(self).__name__} has no relaxation")

    def relaxation_given(self, logits: Tensor, sample: Tensor, noise: Tensor) -> Tensor:
        """z drawn given the sample, by fresh noise; differentiable in the logits, which move its law *given* the sample."""
        raise NotImplementedError(f"{type(self).__name__} has no relaxation")

    def soften(self, relaxed: Tensor, temperature: float) -> Tensor:
        """The relaxed sample of z."""
        raise NotImplementedError(f"{type(self).__name__} has no relaxation")

    def indicator(self, logits: Tensor, sample: Tensor) -> Tensor:
        """Which outcome each unit's sample is, one-hot: (batch, *unit_shape, outcomes), of the sample's dtype."""
        outcomes = self.outcomes(logits).to(sample.dtype)
        equal = sample.unsqueeze(-outcomes.dim()) == outcomes
        return (equal.all(-1) if outcomes.dim() > 1 else equal).to(sample.dtype)

    def sample_of(self, logits: Tensor, indicator: Tensor) -> Tensor:
        """The samples of one-hot outcomes; linear in them, so that a gradient passes."""
        outcomes = self.outcomes(logits).to(indicator.dtype)
        return indicator @ outcomes
