"""Declared credit: which terms of the cost the units of a node answer for, said by the user and not found by tracing."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TypeAlias

import torch
from torch import Tensor

from dither.estimators.core.site import Site

Credit: TypeAlias = str | Tensor  # no Literal: a closure's shape decides which words fit, so the command line has none
Credits: TypeAlias = Credit | Mapping[str, Credit]

_NAMES = ("traced", "global", "aligned", "causal")
_CHOICES = (
    "give 'traced', 'global' (every unit answers for every term), 'aligned' (unit t for term t), 'causal' (unit t for term t "
    "and all later ones), a bool tensor (units, terms), or a dict of them by the nodes' names or patterns"
)


def checked(credit: Credits, nodes: Collection[str]) -> Credits:
    """The credit as it was declared. Raises ValueError or TypeError for what is none, or is for no node."""
    if not isinstance(credit, Mapping):
        return _checked(credit, "credit")
    for pattern, own in credit.items():
        _checked(own, f"credit[{pattern!r}]")
        if not any(fnmatchcase(name, pattern.partition(":")[0]) for name in nodes):
            raise ValueError(f"credit is for {pattern!r}, which no node is called: the model has {', '.join(nodes)}")
    return dict(credit)


def _checked(credit: Credit, what: str) -> Credit:
    if isinstance(credit, str):
        if credit not in _NAMES:
            raise ValueError(f"{what} is {credit!r}: {_CHOICES}")
    elif not isinstance(credit, Tensor):
        raise TypeError(f"{what} is {type(credit).__name__}: {_CHOICES}")
    elif credit.dtype != torch.bool or credit.dim() != 2:
        raise ValueError(
            f"{what} is a tensor of shape {tuple(credit.shape)} and dtype {credit.dtype}: it must be bool, (units, terms), "
            "True where the unit can change the term"
        )
    return credit


def credit_of(credits: Credits, name: str) -> Credit:
    """That of a node, or of one call of it ("cell:3")."""
    if not isinstance(credits, Mapping):
        return credits
    for pattern, credit in credits.items():
        if any(one == pattern or fnmatchcase(one, pattern) for one in (name, name.partition(":")[0])):
            return credit
    return "traced"


def named(credit: Credit) -> str:
    return credit if isinstance(credit, str) else "given"


def traced(credits: Credits, nodes: Collection[str]) -> bool:
    """Whether that of some node is."""
    own = [credit_of(credits, name) for name in nodes]
    return any(isinstance(credit, str) and credit == "traced" for credit in own)


def declare(sites: Sequence[Site], credits: Iterator[Credits] | Sequence[Credits], terms: int) -> None:
    """Set `influence` of the sites whose credit is declared, each by the credits of its estimator."""
    for site, own in zip(sites, credits, strict=True):
        credit = credit_of(own, site.name)
        if isinstance(credit, str) and credit == "traced":
            continue
        calls = [other for other in sites if other.node is site.node]
        site.local = terms > 1
        influence = _influence(credit, site, calls, terms)
        site.influence = None if influence is None or terms == 1 else influence.to(site.sample.device)


def _influence(credit: Credit, site: Site, calls: list[Site], terms: int) -> Tensor | None:
    units = math.prod(site.units)
    if isinstance(credit, Tensor):
        if tuple(credit.shape) != (units, terms):
            raise ValueError(
                f"credit of node '{site.name}' is a tensor of shape {tuple(credit.shape)}: the node has {units} units, "
                f"{site.units}, and the cost {terms} terms, so it must be ({units}, {terms}) (credit for one call of several: "
                "by its name, such as 'cell:3')"
            )
        return credit
    if credit == "global":
        return None
    position = _position(credit, site, calls, terms).view(-1, 1)
    term = torch.arange(terms, dtype=torch.int64, device="cpu")
    return term == position if credit == "aligned" else term >= position


def _position(credit: str, site: Site, calls: list[Site], terms: int) -> Tensor:
    """The position of each unit: its place in the first dimension of units, or the number of the call."""
    units, first = math.prod(site.units), site.units[0] if site.units else 1
    numbered, placed = len(calls) == terms, first == terms
    if numbered and placed and terms > 1:
        raise ValueError(
            f"credit={credit!r} of node '{calls[0].name}' has two meanings: the node is called {len(calls)} times, its units "
            f"are {site.units}, and the cost has {terms} terms. If calls are time steps, give it logits (batch, 1, units); if "
            "the first dimension of units is time, declare each call with a bool tensor by its name ('cell', 'cell:1', ...)"
        )
    if numbered and (len(calls) > 1 or not placed):
        return torch.full((units,), next(k for k, call in enumerate(calls) if call is site), dtype=torch.int64, device="cpu")
    if placed:
        return torch.arange(terms, dtype=torch.int64, device="cpu").repeat_interleave(units // terms)
    times = f"is called {len(calls)} time{'s' if len(calls) > 1 else ''} with units {site.units}"
    raise ValueError(
        f"credit={credit!r} of node '{calls[0].name}' needs a position for each of the {terms} terms of the cost, and the node "
        f"{times}: give it logits (batch, {terms}, ...), or call it once for each term, or give its credit as 'traced', "
        f"'global' or a bool tensor ({units}, {terms}), alone by {{{calls[0].name!r}: ...}}. The closure returns "
        "(batch, terms)"
    )
