"""Many calls of one binary node as one site: recurrent and spiking nets call theirs at every step.

Credit that all of a call's units share, without a statistic of each call, gives a surrogate that is a sum over units, whichever
call they are of. So the units of all calls of a node, side by side, have the same gradient, at the cost of one call.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dither.estimators.core.site import Site


def merged(sites: list[Site]) -> list[Site]:
    """The sites, those that can be side by side as one. Names and numbers are of the first of them."""
    if len(sites) < 2:
        return sites
    groups: dict[object, list[Site]] = {}
    for site in sites:
        groups.setdefault(_kind(site), []).append(site)
    return [_as_one(group) if len(group) > 1 else group[0] for group in groups.values()]


def _kind(site: Site) -> object:
    """What sites that can be side by side have in common; of others themselves."""
    node, logits = site.node, site.logits
    whole = site.influence is None and site.present is None and site.rows is None and not site.local
    if type(site) is not Site or not whole or not node.binary or not node.has("score") or logits.dim() < 3:
        return id(site)
    return node, tuple(logits.shape[:2]), logits.dtype, site.sample.dtype, site.shared is None


def _as_one(group: list[Site]) -> Site:
    first, shared = group[0], None
    sample = _side_by_side([site.sample for site in group], 2)
    if first.shared is None:
        logits = _side_by_side([site.logits for site in group], 2)
    else:
        shared = _side_by_side([site.shared for site in group if site.shared is not None], 1)
        logits = shared.unsqueeze(0).expand(first.shape[0], *shared.shape)
    return Site(first.name, first.node, logits, sample, index=first.index, count=first.count, shared=shared)


def _side_by_side(tensors: list[Tensor], start: int) -> Tensor:
    """(..., *units) of each -> (..., all units)."""
    return torch.cat([t if t.dim() == start + 1 else t.flatten(start) for t in tensors], -1)
