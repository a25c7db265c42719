"""A controller of firing rates, which keeps stochastic units alive (Bengio 2013, Sec. 2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dither.nodes import Node


@torch.library.custom_op("dither::count_active", mutates_args=("active", "seen"))
def _count_active(output: Tensor, off: float, active: Tensor, seen: Tensor) -> None:
    """Add to `active` (units,) how often each unit of output (batch, units) was not `off`, and the batch to `seen`."""
    active += (output != off).sum(0)
    seen += len(output)


@_count_active.register_fake
def _(output: Tensor, off: float, active: Tensor, seen: Tensor) -> None:
    return None


@_count_active.register_vmap
def _(info, in_dims, output: Tensor, off: float, active: Tensor, seen: Tensor):
    if in_dims[0] is None:  # the same for every sample
        output = output.repeat(info.batch_size, 1)
    else:
        output = output.movedim(in_dims[0], 0).flatten(0, 1)
    _count_active(output, off, active, seen)
    return None, None


class FiringRate(nn.Module):
    """A node whose units keep a target firing rate: a controller, instead of a gradient, moves a bias per unit.

    >>> import torch, dither
    >>> layer = torch.nn.Sequential(torch.nn.Linear(8, 4), dither.FiringRate(dither.NoisyReLU(), units=4, target=0.1))
    >>> layer(torch.zeros(2, 8)).shape
    torch.Size([2, 4])

    Computes    node(a + bias): `logits (batch, *units)`, same shape out. After every training forward the share of
                active outputs enters a moving average r per unit, and bias += step_size (target - r). So no unit dies,
                and none is always on. An output is active that is not the node's off value (0 for rectifiers, values[0]
                for Bernoulli).
    units       the shape of one example's logits: a number or a tuple.
    target      share of the time a unit should be active, in (0, 1).
    step_size   in units of the logits, per training forward.  decay: of the moving average.
    The update happens at the start of the next training forward, also inside an estimator's samples, and never in
    `.eval()`. Buffers `bias`, `rate` and the counts are in the state_dict.
    Raises      ValueError for a target outside (0, 1) or logits of another shape.
    Source      Bengio 2013, Sec. 2, last paragraph.
    """

    bias: Tensor
    rate: Tensor
    active: Tensor
    seen: Tensor

    def __init__(
        self,
        node: Node,
        units: int | tuple[int, ...],
        *,
        target: float = 0.1,
        step_size: float = 0.05,
        decay: float = 0.99,
    ) -> None:
        super().__init__()
        if not 0 < target < 1:
            raise ValueError(f"target is {target}: a firing rate is a share of the time, strictly between 0 and 1")
        if not (step_size > 0 and 0 <= decay < 1):
            raise ValueError(f"step_size={step_size}, decay={decay}: step_size > 0 and 0 <= decay < 1 are needed")
        shape = (units,) if isinstance(units, int) else tuple(units)
        self.node, self.target, self.step_size, self.decay = node, target, step_size, decay
        self.off = float(getattr(node, "values", (0.0,))[0])
        # Averages and counts in float32, whatever the layers' dtype: bfloat16 cannot count past 256.
        wide = torch.float32
        self.register_buffer("bias", torch.zeros(shape, dtype=wide))  # ambient: built on the default device, as layers are
        self.register_buffer("rate", torch.full(shape, target, dtype=wide))  # ambient: the same
        self.register_buffer("active", torch.zeros(shape, dtype=wide).flatten())  # ambient: the same
        self.register_buffer("seen", torch.zeros((), dtype=wide))  # ambient: the same

    def extra_repr(self) -> str:
        return f"units={tuple(self.bias.shape)}, target={self.target}, step_size={self.step_size}, decay={self.decay}"

    def forward(self, logits: Tensor) -> Tensor:
        if logits.shape[1:] != self.bias.shape:
            raise ValueError(
                f"logits has shape {tuple(logits.shape)}, but FiringRate was built with units={tuple(self.bias.shape)}: "
                f"pass units={tuple(logits.shape[1:])}"
            )
        if self.training:
            self.update()
        output = self.node(logits + self.bias.to(logits.dtype))
        if self.training:
            _count_active(output.detach().flatten(1), self.off, self.active, self.seen)
        return output

    @torch.no_grad()
    def update(self) -> None:
        """Moves the averages and biases by the outputs since the last update; a no-op if there were none."""
        weight = (self.seen > 0).to(self.rate.dtype)
        observed = (self.active / self.seen.clamp(min=1)).view_as(self.rate)
        self.rate += weight * (1 - self.decay) * (observed - self.rate)
        self.bias += weight * self.step_size * (self.target - self.rate)
        self.active.zero_()
        self.seen.zero_()

    @property
    def dead(self) -> Tensor:
        """Which units are active less than a tenth of the time that the target asks for, bool (*units)."""
        return self.rate < self.target / 10

    @property
    def always_on(self) -> Tensor:
        """Which units are off less than a tenth of the time that the target asks for, bool (*units)."""
        return 1 - self.rate < (1 - self.target) / 10

    def report(self) -> dict[str, float]:
        """Counts of dead and always-on units, their number, and the minimum, mean and maximum rate."""
        return {
            "units": self.rate.numel(),
            "dead": int(self.dead.sum()),
            "always_on": int(self.always_on.sum()),
            "rate_min": float(self.rate.min()),
            "rate_mean": float(self.rate.mean()),
            "rate_max": float(self.rate.max()),
        }
