"""The programs themselves: loaded from the checkout, hooked, and made to run in plain torch."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dither
from dither.experiments.examples.turns import Tick

FOLDER = Path(__file__).resolve().parents[4] / "examples"  # of a checkout


def programs(only: tuple[str, ...] = (), folder: Path = FOLDER) -> list[Path]:
    """The files of the folder, or those named `only`."""
    paths = {path.stem: path for path in sorted(folder.glob("*.py"))}
    if not paths:
        raise FileNotFoundError(
            f"there is no program in {folder}: they are in a checkout of dither, not in an installed package; clone it, and "
            "run this command with its src/ on the path"
        )
    if unknown := [name for name in only if name not in paths]:
        raise ValueError(f"only is {unknown[0]!r}, which is no program: choose among {', '.join(paths)}")
    return [paths[name] for name in only or paths]


def load(path: Path) -> ModuleType:
    """The program as a module."""
    name = f"dither_examples_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # torch.compile looks a function's module up
    spec.loader.exec_module(module)
    return module


# --- plain torch --------------------------------------------------------------------------------------------------------
class PlainBernoulli(nn.Module):
    def forward(self, logits: Tensor) -> Tensor:
        p = torch.sigmoid(logits)
        return torch.bernoulli(p.detach()) + (p - p.detach())


class PlainCategorical(nn.Module):
    def forward(self, logits: Tensor) -> Tensor:
        p = logits.softmax(-1)
        sample = torch.multinomial(p.detach().flatten(0, -2), 1).view(p.shape[:-1])
        return F.one_hot(sample, p.shape[-1]).to(p.dtype) + (p - p.detach())


PLAIN: dict[Any, type[nn.Module]] = {dither.Bernoulli: PlainBernoulli, dither.Categorical: PlainCategorical}


def plain(tick: Tick = lambda: None) -> Callable[[nn.Module], Callable[..., Any]]:
    """In place of an estimator's class: the mean cost of one run, back-propagated."""

    def estimator(closure: Callable[[], Any], *, has_aux: bool = False, detach: bool = True) -> Any:
        tick()
        returned = closure()
        cost, aux = returned if has_aux else (returned, None)
        loss = cost.sum() / len(cost)
        return (loss, aux) if has_aux else loss

    return lambda net: estimator


def plain_node(module: ModuleType) -> type[nn.Module]:
    """What takes the place of the node that the program's `train` has by default."""
    return PLAIN[inspect.signature(module.train).parameters["node"].default]


def hooked(make: Callable[[nn.Module], nn.Module], hook: Callable[..., None]) -> Callable[[nn.Module], nn.Module]:
    """Builds the same estimator, before whose calls hook(estimator, (closure,)) runs."""

    def build(net: nn.Module) -> nn.Module:
        estimator = make(net)
        estimator.register_forward_pre_hook(hook)
        return estimator

    return build
