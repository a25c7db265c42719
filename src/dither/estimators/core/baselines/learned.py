"""Baselines that a module learns from a node's logits, by the user's optimizer."""

from __future__ import annotations

from torch import Tensor, nn

from dither.estimators.core.baselines.baseline import Baseline
from dither.estimators.core.parts import Part
from dither.estimators.core.ranks import broadcast_module, call_averaged, world
from dither.estimators.core.shapes import mean_over_examples
from dither.estimators.core.site import Site


class Learned(Part, Baseline):
    """A module of the node's logits, trained by squared error through the returned loss.

    It sees what the sample was drawn from and nothing of the sample itself, so the gradient stays unbiased. The module
    maps logits (batch, *units) to (batch,), (batch, 1) or one value per unit; a ModuleDict has one module per node, under
    the node's name with "." written as "_". Its parameters are in `estimator.parameters()`.

    Where torch.distributed is initialised, all ranks start from rank 0's parameters and average their gradients over the
    ranks in the backward pass, as DistributedDataParallel does for the model: do not wrap the module in it.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self._shared: set[str] = set()  # the modules, by key, whose parameters the ranks have in common
        for key, part in module.items() if isinstance(module, nn.ModuleDict) else (("", module),):
            self._share(key, part)

    def _share(self, key: str, module: nn.Module) -> None:
        """Rank 0's parameters on all ranks, once; those of a lazy module when they have their shapes."""
        if world() > 1 and key not in self._shared and not _is_lazy(module):
            broadcast_module(module)
            self._shared.add(key)

    def _module(self, site: Site) -> tuple[str, nn.Module]:
        if not isinstance(self.module, nn.ModuleDict):
            return "", self.module
        key = site.name.partition(":")[0].replace(".", "_")
        if key not in self.module:
            raise ValueError(f"baseline has no module for node '{key}': its keys are {', '.join(self.module)}")
        return key, self.module[key]

    def value(self, site: Site, credit: Tensor) -> Tensor:
        logits, (key, module) = site.logits.detach().flatten(0, 1), self._module(site)
        if world() > 1 and _is_lazy(module):
            module(logits)
        self._share(key, module)
        value = self._called(site, module, logits).unflatten(0, site.shape[:2])
        units = (*site.shape[:2], *site.units)
        if value.shape == units:
            return value
        if value.numel() == site.shape[0] * site.shape[1]:
            return site.over_units(value.reshape(site.shape[:2]))
        raise ValueError(
            f"the baseline module gave shape {tuple(value.shape[1:])} for node '{site.name}': one value per example, "
            f"(batch,), or one per unit, {tuple(units[1:])}, is needed"
        )

    def _called(self, site: Site, module: nn.Module, logits: Tensor) -> Tensor:
        try:
            return call_averaged(module, logits)
        except RuntimeError as error:
            error.add_note(
                f"dither: the baseline module raised for node '{site.name}' with logits of shape {tuple(logits.shape)}; where "
                "the number of units changes from call to call, give a module that takes any (a mean over units first, a "
                "recurrent net), or use baseline='leave-one-out'"
            )
            raise

    def loss(self, site: Site, credit: Tensor, value: Tensor | float) -> Tensor | None:
        assert isinstance(value, Tensor)
        return mean_over_examples(site.where_present((value - credit).square())).mean()


def _is_lazy(module: nn.Module) -> bool:
    return any(isinstance(p, nn.UninitializedParameter) for p in module.parameters())
