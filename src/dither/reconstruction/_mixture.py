"""A mixture: the simplest distribution of several modes, whose units are not independent."""

from __future__ import annotations

import torch
from torch import Tensor

from dither import kernels, nodes
from dither.functional import proper_logits
from dither.reconstruction._base import Reconstruction, check_clamp, check_fit


class Mixture(Reconstruction):
    """P(x | outputs) = sum_k w_k P_k(x), each component of one factorised family with outputs of its own.

    Shapes      outputs (batch, components (1 + component.outputs(units))): the logits of the weights w, then a block of
                outputs for each component.
    Sampling    A `dither.Categorical` node samples the component; given clamped values, by its responsibility for them.
                Then the family samples the units. An estimator can credit both.
    Equal blocks stay equal under training: the layer that gives them must break the symmetry (random weights do).
    For grey x and Bernoulli components `log_prob` is log sum_k w_k exp(-cross-entropy_k), not a mean over binary x.
    Raises      ValueError for components that are not factorised, fewer than two, and for clamped values that are
                impossible.
    Source      Bengio et al. 2013 (generalized denoising auto-encoders), Sec. 2: P(x | x~) has several modes where x~
                could come from several x.
    """

    factorised = False

    def __init__(self, component: Reconstruction, components: int) -> None:
        super().__init__()
        if not component.factorised:
            raise ValueError(
                f"component is {component}: the mixture needs the log-probability of subsets of its units, which only a "
                "factorised family has; use Bernoulli, Gaussian, Categorical, or a Joint of these"
            )
        if type(components) is not int or components < 2:
            raise ValueError(f"components is {components!r}: an integer of at least 2 is needed; for one use the family itself")
        self.component, self.components, self.node = component, components, nodes.Categorical()

    def extra_repr(self) -> str:
        return f"components={self.components}"

    def outputs(self, units: int) -> int:
        return self.components * (1 + self.component.outputs(units))

    def parts(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """(log weights (..., components), outputs of the components (..., components, width))."""
        if outputs.shape[-1] % self.components:
            raise ValueError(
                f"outputs has shape {tuple(outputs.shape)}: its width must be a multiple of components={self.components}"
            )
        outputs = kernels.widen(outputs)
        logits, blocks = outputs[..., : self.components], outputs[..., self.components :]
        return torch.log_softmax(proper_logits(logits), -1), blocks.unflatten(-1, (self.components, -1))

    def log_prob(self, outputs: Tensor, x: Tensor) -> Tensor:
        check_fit(self, outputs, x)
        log_weights, blocks = self.parts(outputs)
        return torch.logsumexp(log_weights + self.component.log_prob(blocks, self._repeated(x)), -1)

    def responsibilities(self, outputs: Tensor, x: Tensor, clamp: Tensor | None = None) -> Tensor:
        """log w_k + log P_k(x[clamp]), or P_k(x) without a clamp: (..., components), log P(k | x) up to a constant."""
        check_fit(self, outputs, x)
        log_weights, blocks = self.parts(outputs)
        if clamp is None:
            return log_weights + self.component.log_prob(blocks, self._repeated(x))
        x = x.masked_fill(~clamp, 0)  # a free unit may be anything, and a NaN would reach the gradient
        return log_weights + self.component.terms(blocks, self._repeated(x)).masked_fill(~self._repeated(clamp), 0).sum(-1)

    def mean(self, outputs: Tensor) -> Tensor:
        log_weights, blocks = self.parts(outputs)
        return (log_weights.exp().unsqueeze(-1) * self.component.mean(blocks)).sum(-2)

    def sample_unchecked(self, outputs: Tensor, clamp: Tensor | None, values: Tensor | None) -> Tensor:
        return self.component.sample_unchecked(self._sampled_block(outputs, clamp, values), clamp, values)

    def sample_with_mean(
        self, outputs: Tensor, clamp: Tensor | None = None, values: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        if clamp is not None and values is not None:
            check_fit(self, outputs, values, "values")
            check_clamp(clamp, values)
            clamp = clamp.expand(values.shape)
        block = self._sampled_block(outputs, clamp, values)
        return self.component.sample(block, clamp, values), self.component.mean(block)

    def _sampled_block(self, outputs: Tensor, clamp: Tensor | None, values: Tensor | None) -> Tensor:
        """The outputs of a component, which is sampled given the clamped values."""
        log_weights, blocks = self.parts(outputs)
        if clamp is not None and values is not None:
            log_weights = self.responsibilities(outputs, values, clamp)
            if kernels.readable(log_weights) and (log_weights == -torch.inf).all(-1).any():
                raise ValueError(
                    "values has clamped units that no component gives any probability: nothing can be sampled given them; "
                    "clamp values of the support, or make the outputs finite"
                )
        return _selected(self.node(log_weights), blocks)

    def check(self, x: Tensor) -> None:
        self.component.check(x)

    def _repeated(self, x: Tensor) -> Tensor:
        """(..., units) for each component."""
        return x.unsqueeze(-2).expand(*x.shape[:-1], self.components, x.shape[-1])


def _selected(component: Tensor, blocks: Tensor) -> Tensor:
    """The block of the component, one-hot or relaxed. Infinite outputs of the others, times 0, would be NaN."""
    weight, infinite = component.unsqueeze(-1), blocks.isinf()
    finite = (weight * blocks.masked_fill(infinite, 0)).sum(-2)
    return finite + blocks.masked_fill(~(infinite & (weight > 0)), 0).sum(-2)
