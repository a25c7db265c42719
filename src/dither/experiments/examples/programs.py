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
from dither.experiments.examples.stand_ins import Plain, StandIn
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
        self.drawn = logits, sample
        return F.one_hot(sample, p.shape[-1]).to(p.dtype) + (p - p.detach())

    def log_prob(self) -> Tensor:
        """Of the last sample."""
        logits, sample = self.drawn
        return logits.log_softmax(-1).gather(-1, sample.unsqueeze(-1)).squeeze(-1)


PLAIN: dict[Any, type[nn.Module]] = {dither.Bernoulli: PlainBernoulli, dither.Categorical: PlainCategorical}


def plain(tick: Tick = lambda: None) -> Callable[[nn.Module], Plain]:
    """In place of an estimator's class."""
    return lambda net: Plain(net, tick)


def load_plain(path: Path) -> ModuleType:
    """The program as a module of its own, whose `dither` is plain torch: for `train(plain(), node=plain_node(module))`."""
    module = load(path)
    module.__dict__["dither"] = StandIn(PLAIN)
    return module


def plain_node(module: ModuleType) -> type[nn.Module]:
    """What takes the place of the node that the program's `train` has by default."""
    return PLAIN[inspect.signature(module.train).parameters["node"].default]


def hooked(make: Callable[[nn.Module], nn.Module], hook: Callable[..., None]) -> Callable[[nn.Module], nn.Module]:
    """Builds the same estimator, before whose calls hook(estimator, (closure,)) runs; of `Episodes`, which are called on none,
    hook(episodes, ()) before their losses."""

    def build(net: nn.Module) -> nn.Module:
        estimator = make(net)
        if isinstance(estimator, dither.Episodes):
            loss = estimator.loss
            estimator.loss = lambda *args: (hook(estimator, ()), loss(*args))[1]  # type: ignore[method-assign]
        else:
            estimator.register_forward_pre_hook(hook)
        return estimator

    return build
