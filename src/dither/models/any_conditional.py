"""Any-conditional models: one network that predicts any of the variables given any of the others."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from dither import kernels
from dither.models.masks import Masks, Uniform, uniforms
from dither.reconstruction import Bernoulli, Categorical, Joint, Mixture, Reconstruction

__all__ = ["AnyConditional"]


class AnyConditional(nn.Module):
    """P(x_unknown | x_known) = reconstruction(network([x * known, known])), trained on masks that `masks` samples.

    network         any module (batch, 2 units) -> (batch, reconstruction.outputs(units)); `dense` makes one
    reconstruction  a factorised family; or a `Mixture`, whose marginal of the unknown units is not factorised
    masks           which variables are known in training, `masks.Uniform()` if None. Each unit is a variable; the units
                    of a one-hot variable are one

    >>> import torch
    >>> model = AnyConditional.dense(64, widths=(100,))
    >>> model.cost(torch.zeros(5, 64)).shape
    torch.Size([5])
    >>> known = torch.arange(64) < 32
    >>> model.sample(torch.zeros(5, 64), known, passes=4).shape
    torch.Size([5, 64])

    The conditionals need not be those of one joint distribution: `coherence` measures how far they are from one.
    Raises      ValueError for masks that know everything or do not fit, data outside the support, outputs of another
                width.
    Source      Bengio 2013, "Deep learning of representations: looking forward", Sec. 5.2.
    """

    variables: Tensor
    blank: Tensor

    def __init__(
        self,
        network: nn.Module,
        units: int,
        *,
        reconstruction: Reconstruction | None = None,
        masks: Masks | None = None,
    ) -> None:
        super().__init__()
        self.network, self.units, self.masks = network, units, masks or Uniform()
        self.reconstruction = reconstruction or Bernoulli()
        if not (self.reconstruction.factorised or isinstance(self.reconstruction, Mixture)):
            raise ValueError(
                f"reconstruction is {self.reconstruction}: the marginal probability of some of its units is needed; take a "
                "factorised family, or a Mixture of one"
            )
        self.reconstruction.outputs(units)  # raises for a number of units that it does not take
        # ambient: buffers of a module, built on the default device as layers are
        sizes = torch.tensor(_sizes(self.reconstruction, units), dtype=torch.int64)
        self.count = len(sizes)
        first = torch.zeros(units).index_fill(0, sizes.cumsum(0) - sizes, 1)  # ambient: of the dtype of its layers
        # Which variable each unit belongs to, and values within the support for units that are unknown.
        self.register_buffer(
            "variables",
            torch.arange(self.count, dtype=torch.int64, device=sizes.device).repeat_interleave(sizes),
            persistent=False,
        )
        self.register_buffer("blank", first * (sizes > 1).repeat_interleave(sizes), persistent=False)

    @classmethod
    def dense(
        cls,
        units: int,
        widths: Sequence[int] = (500, 500),
        reconstruction: Reconstruction | None = None,
        masks: Masks | None = None,
    ) -> AnyConditional:
        """With a network of fully connected layers of ReLUs."""
        reconstruction = reconstruction or Bernoulli()
        sizes = (2 * units, *widths, reconstruction.outputs(units))
        layers = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.ReLU())]
        return cls(nn.Sequential(*layers[:-1]), units, reconstruction=reconstruction, masks=masks)

    # --- training -------------------------------------------------------------------------------------------------------
    def cost(self, x: Tensor) -> Tensor:
        """-log P(x_unknown | x_known) of a mask for each example, times its weight: (batch, units) -> (batch,), nats.

        With `masks.Uniform()` and a factorised family: an unbiased estimate of -log P(x), averaged over all orders.
        """
        self.check(x)
        mask = self.masks(len(x), self.count, x.device)
        if mask.dtype != torch.bool or mask.shape != (len(x), self.count):
            raise ValueError(
                f"masks gave shape {tuple(mask.shape)} and dtype {mask.dtype}: bool of shape {(len(x), self.count)} is needed"
            )
        known = self._known(mask[:, self.variables], x)
        cost, weight = -self._log_prob(self._outputs(x, known), x, ~known), self.masks.weight(mask)
        return cost if weight is None else cost * weight.to(cost.dtype)

    def check(self, x: Tensor) -> None:
        """Raises ValueError for data of another width, or outside the reconstruction's support."""
        self._check_width(x)
        self.reconstruction.check(x)

    # --- probabilities --------------------------------------------------------------------------------------------------
    def log_prob(self, x: Tensor, known: Tensor) -> Tensor:
        """log P(x_unknown | x_known) in one pass, (batch,). known: bool, (units,) or (batch, units)."""
        return self.log_likelihood(x, None, known, passes=1)

    def log_likelihood(
        self, x: Tensor, order: Tensor | None = None, known: Tensor | None = None, passes: int | None = None
    ) -> Tensor:
        """log P(x), or log P(x_unknown | x_known), exactly that of `sample` along an order: (batch,).

        Formula     sum over groups of log P(x_group | x_known, x of the groups before)
        order       (variables,) int64: which one comes first, second ...; (orders, variables) gives (orders, batch);
                    None: a random one for each example
        passes      through the network, one for each group; None: one variable after the other
        """
        if order is not None and order.dim() == 2:
            return torch.stack([self.log_likelihood(x, one, known, passes) for one in order])
        self.check(x)
        done = torch.zeros_like(x, dtype=torch.bool) if known is None else self._known(known, x)
        step, steps = self._schedule(done, order, self.count if passes is None else passes)
        terms = []
        for t in range(steps):
            group = step == t
            terms.append(self._log_prob(self._outputs(x, done), x, group))
            done = done | group
        return torch.stack(terms).sum(0)

    @torch.no_grad()
    def coherence(self, x: Tensor, orders: int = 10, known: Tensor | None = None) -> Tensor:
        """Standard deviation of log P(x) over random orders, (batch,), in nats: 0 where the conditionals agree on P(x).

        They are those of one joint distribution if and only if it is 0 for every x. Its square is unbiased. It takes a
        pass through the network for each order and variable.
        """
        if orders < 2:
            raise ValueError(f"orders is {orders}: a spread needs at least 2")
        return torch.stack([self.log_likelihood(x, None, known) for _ in range(orders)]).std(0)

    # --- samples --------------------------------------------------------------------------------------------------------
    @torch.no_grad()
    def sample(self, x: Tensor, known: Tensor, passes: int = 1, order: Tensor | None = None) -> Tensor:
        """x with a sample of its unknown units, (batch, units). What x has there is not read; it may be NaN.

        passes      1: all at once, each by itself given the known ones (a Mixture: together). k: the unknown variables
                    are split into k random groups, sampled one after the other, each given all before. As many as there
                    are unknown variables: one by one, which is exact along the order, also for a factorised family.
        order       (variables,) int64: the unknown ones are taken in this order; None: a random one for each example
        """
        self._check_width(x)
        known = self._known(known, x)
        self.reconstruction.check(torch.where(known, x, self.blank.to(x.dtype)))
        step, steps = self._schedule(known, order, passes)
        for t in range(steps):
            group = step == t
            sample = self.reconstruction.sample(self._outputs(x, known))
            x, known = torch.where(group, sample.to(x.dtype), x), known | group
        return x

    # --- parts ----------------------------------------------------------------------------------------------------------
    def _outputs(self, x: Tensor, known: Tensor) -> Tensor:
        outputs = self.network(torch.cat([x.masked_fill(~known, 0), known.to(x.dtype)], -1))
        needed = (len(x), self.reconstruction.outputs(self.units))
        if outputs.shape != needed:
            raise ValueError(
                f"the network gives {tuple(outputs.shape)}, {self.reconstruction} of {self.units} units needs {needed}"
            )
        return outputs

    def _log_prob(self, outputs: Tensor, x: Tensor, mask: Tensor) -> Tensor:
        """log P of the units of a mask, the marginal over the others: (batch,)."""
        if isinstance(self.reconstruction, Mixture):
            return self.reconstruction.responsibilities(outputs, x, mask).logsumexp(-1)
        return self.reconstruction.terms(outputs, x).masked_fill(~mask, 0).sum(-1)

    def _schedule(self, known: Tensor, order: Tensor | None, passes: int) -> tuple[Tensor, int]:
        """(in which pass each unit is sampled, negative for known ones (batch, units); how many passes there are)."""
        if type(passes) is not int or not 1 <= passes <= self.count:
            raise ValueError(f"passes is {passes!r}: an integer from 1 to the number of variables, {self.count}, is needed")
        if order is None:
            place = uniforms(len(known), self.count, known.device)
        elif not torch.equal(order.sort().values, torch.arange(self.count, device=order.device, dtype=torch.int64)):
            raise ValueError(f"order is {order.tolist()}: a permutation of 0 ... {self.count - 1} is needed")
        else:
            place = order.argsort().expand(len(known), -1)
        known = known.new_zeros(len(known), self.count).index_copy(1, self.variables, known)  # variables instead of units
        rank = place.masked_fill(known, -1).argsort(stable=True, dim=1).argsort(1) - known.sum(1, keepdim=True)
        unknown = (~known).sum(1, keepdim=True)
        groups = unknown.clamp(max=passes)
        return (rank * groups // unknown)[:, self.variables], int(groups.max())

    def _check_width(self, x: Tensor) -> None:
        if x.dim() != 2 or x.shape[1] != self.units:
            raise ValueError(f"x has shape {tuple(x.shape)}: (batch, {self.units}) is needed; flatten images with x.flatten(1)")

    def _known(self, known: Tensor, x: Tensor) -> Tensor:
        """The mask for each example of x. Raises ValueError where it leaves nothing unknown, or splits a variable."""
        if known.dtype != torch.bool or known.shape not in (x.shape, x.shape[-1:]):
            raise ValueError(
                f"known has shape {tuple(known.shape)} and dtype {known.dtype}: a bool mask of shape ({x.shape[-1]},) or "
                f"{tuple(x.shape)} is needed, True where x is known"
            )
        if kernels.plain(known):
            rows = known.reshape(-1, known.shape[-1])
            if rows.all(-1).any():
                raise ValueError("known has every unit of an example: nothing is left to predict; set some entries to False")
            if self.count < self.units and (rows[:, 1:] != rows[:, :-1])[:, self.variables.diff() == 0].any():
                raise ValueError("known splits a one-hot variable: set all of its entries, or none")
        return known.expand(x.shape)


def _sizes(family: Reconstruction, units: int) -> list[int]:
    """How many units each variable has: those of a one-hot variable are known together or not at all."""
    if isinstance(family, Mixture):
        return _sizes(family.component, units)
    if isinstance(family, Joint):
        parts = zip(family.parts, family.sizes, strict=True)
        return [size for part, units in parts for size in _sizes(part, units)]  # type: ignore[arg-type]
    return [family.categories] * (units // family.categories) if isinstance(family, Categorical) else [1] * units
