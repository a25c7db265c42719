"""Masks that are kept small answer for every view as an array with an entry for each place does."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

from dither.estimators.core.tracing import layouts
from dither.estimators.core.tracing.layouts import Store

ROWS = 3


def views(base: Tensor, permuted: Tensor, chance: random.Random) -> Tensor:
    """Any view of the memory: all of it, a slice, one with steps, one that repeats, one that overlaps."""
    d = chance.randrange(base.dim())
    start = chance.randrange(base.shape[d])
    kinds = [
        permuted,
        base.view(-1),
        base.select(d, start),
        base.narrow(d, start, chance.randint(1, base.shape[d] - start)),
        base[tuple(slice(None, None, 2) if i == d else slice(None) for i in range(base.dim()))],
        base.unsqueeze(0).expand(2, *base.shape),
    ]
    if base.numel() > 3:
        kinds.append(base.as_strided((2, 2), (1, 1), chance.randrange(base.numel() - 2)))
    return chance.choice(kinds)


def places(view: Tensor, base: Tensor) -> list[int]:
    index = torch.arange(base.numel()).as_strided(view.shape, view.stride(), view.storage_offset())
    return index.flatten().tolist()


@pytest.mark.parametrize("seed", range(40))
def test_every_view_has_its_own_places(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layouts, "SMALL", 1)  # look at all, however small
    chance, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    base = torch.zeros([chance.randint(1, 4) for _ in range(chance.randint(1, 4))])
    permuted = base.permute(chance.sample(range(base.dim()), base.dim()))
    store, everything = Store(ROWS), torch.zeros(ROWS, base.numel(), dtype=torch.bool)
    store.made(permuted, base.untyped_storage().data_ptr())
    for _ in range(8):
        view = views(base, permuted, chance)
        mask = torch.rand([ROWS, *(chance.choice([1, n]) for n in view.shape)], generator=generator) < 0.3
        index = places(view, base)
        added = len(set(index)) < len(index) or chance.random() < 0.6
        store.write(view, mask, added, tuple(chance.choice([1, 2, 3, 4]) for _ in range(3)))
        if not added:
            everything[:, index] = False
        for place, column in zip(index, mask.expand(ROWS, *view.shape).reshape(ROWS, -1).T, strict=True):
            everything[:, place] |= column
        for _ in range(4):
            view = views(base, permuted, chance)
            expected = everything[:, places(view, base)].view(ROWS, *view.shape)
            actual = store.of(view)
            assert torch.equal(expected, torch.zeros_like(expected) if actual is None else actual.expand_as(expected))


def test_batch_times_time_is_kept_apart() -> None:
    """As of a linear layer on flattened positions: the same for all examples is kept once."""
    store = Store(64)
    source, flat = torch.zeros(32, 64, 8), torch.zeros(32 * 64, 8)
    eye = torch.eye(64, dtype=torch.bool)
    store.write(source, eye.view(64, 1, 64, 1), added=True)
    seen = store.of(source.view(-1, 8))
    assert seen is not None and torch.equal(seen.squeeze(2), eye.repeat(1, 32))
    store.write(flat, seen, added=True, hint=store.shape(source))
    assert store.size(flat.untyped_storage().data_ptr()) == 64 * 64
