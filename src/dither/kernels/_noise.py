"""Operators: uniform and normal noise by key."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dither.kernels import _dispatch


def _draw(kind: str, seed: Tensor, site: int, sample: Tensor, ids: Tensor, units: int) -> Tensor:
    def draw(number: _dispatch.Seed, samples: Tensor, rows: Tensor, _: Any) -> Tensor:
        return _dispatch.noise(kind, number, site, samples, rows, units)

    return _dispatch.by_seed(seed, sample, ids, draw).view(*ids.shape, units)


@torch.library.custom_op("dither::uniform", mutates_args=())
def _uniform(seed: Tensor, site: int, sample: Tensor, ids: Tensor, units: int, like: Tensor) -> Tensor:
    return _draw("uniform", seed, site, sample, ids, units)


@torch.library.custom_op("dither::normal", mutates_args=())
def _normal(seed: Tensor, site: int, sample: Tensor, ids: Tensor, units: int, like: Tensor) -> Tensor:
    return _draw("normal", seed, site, sample, ids, units)


def _register(operator: Any) -> None:
    @operator.register_fake
    def _(seed: Tensor, site: int, sample: Tensor, ids: Tensor, units: int, like: Tensor) -> Tensor:
        return ids.new_empty((*ids.shape, units), dtype=torch.float32)

    @operator.register_vmap
    def _(info, in_dims, seed: Tensor, site: int, sample: Tensor, ids: Tensor, units: int, like: Tensor):
        lead = _dispatch.own_draws(info, sample, in_dims[2], in_dims[5] is not None)
        like = like if in_dims[5] is None else like.select(in_dims[5], 0)
        seed, ids = (_dispatch.batched(info.batch_size, t, d) for t, d in ((seed, in_dims[0]), (ids, in_dims[3])))
        return operator(seed, site, lead, ids, units, like), 0


_register(_uniform)
_register(_normal)


def uniform(seed: Tensor, site: int, sample: Tensor, ids: Tensor, units: int, like: Tensor) -> Tensor:
    """(*lead, batch, units) float32 uniforms in (0, 1); seed and sample have shape lead, ids (*lead, batch).

    In a vmap over `like` that knows nothing of samples, each slice is a draw of its own.
    """
    if _dispatch.plain(seed, sample, ids, like):
        return _draw("uniform", seed, site, sample, ids, units)
    return _uniform(seed, site, sample, ids, units, like)


def normal(seed: Tensor, site: int, sample: Tensor, ids: Tensor, units: int, like: Tensor) -> Tensor:
    """As `uniform`: standard normals."""
    if _dispatch.plain(seed, sample, ids, like):
        return _draw("normal", seed, site, sample, ids, units)
    return _normal(seed, site, sample, ids, units, like)
