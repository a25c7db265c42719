"""Where the map x~ -> E[x | x~] of a model leads, and what its chains do."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from dither import chains, metrics
from dither.experiments.spurious_modes.config import Config
from dither.experiments.spurious_modes.models import curve
from dither.models.dae import DAE
from dither.tables import Row

BOX, NEAR = 1.6, 3  # half the side of the box; standard deviations of the data that still count as near the curve
STILL, DISTINCT, FAR = 1e-4, 0.05, 100.0  # moves of fixed points; distance of different ones; where runaways are put
STEPS, WATCHED = (10, 100, 1000), 200  # of the chains: when they are evaluated, and for how long their coming near is
PIECES = 50  # of the curve's length


def distance(x: Tensor, seeds: int) -> tuple[Tensor, Tensor]:
    """(..., 2 seeds) -> distances to the curve and where on it, of PIECES: (..., seeds). Runaways are FAR."""
    points = curve()[::4]
    x = torch.nan_to_num(x, FAR).clamp(-FAR, FAR).unflatten(-1, (seeds, 2))
    nearest = torch.cdist(x.reshape(-1, 2).double(), points).min(1)
    return nearest.values.view(x.shape[:-1]), nearest.indices.view(x.shape[:-1]) * PIECES // len(points)


def iterate(config: Config, model: DAE) -> tuple[Tensor, Tensor, Tensor]:
    """Where x~ -> E[x | x~] leads from the grid.

    (ends (points, seeds, 2), which of them are spurious, which of these are fixed points).
    """
    side = torch.linspace(-BOX, BOX, config.points, dtype=torch.float32, device="cpu")
    x = torch.cartesian_prod(side, side).repeat(1, config.seeds)
    spurious = still = torch.zeros(len(x), config.seeds, dtype=torch.bool, device="cpu")
    for count in range(1, config.iterations + 1):
        before, x = x, model.reconstruction.mean(model.network(x))
        if count % 25 and count != config.iterations:
            continue
        spurious = ~(distance(x, config.seeds)[0] <= NEAR * config.noise)
        still = spurious & ((x - before).unflatten(1, (-1, 2)).norm(dim=2) < STILL)
        if bool((still == spurious).all()):
            break
    return x.unflatten(1, (-1, 2)), spurious, still


def distinct(ends: Iterable[Tensor]) -> list[Tensor]:
    attractors: list[Tensor] = []
    for end in ends:
        if all((end - other).norm() > DISTINCT for other in attractors):
            attractors.append(end)
    return attractors


@torch.no_grad()
def evaluate(config: Config, model: DAE, train: Tensor, held_out: Tensor) -> list[Row]:
    """A row for each seed: the spurious attractors, the chains, and the cost held out."""
    torch.manual_seed(1)
    ends, spurious, still = iterate(config, model)
    x = held_out.repeat(1, config.seeds)
    assert model.corruption is not None
    terms = model.reconstruction.terms(model.network(model.corruption(x)), x).unflatten(1, (config.seeds, 2))
    box = (2 * torch.rand(config.chains, 2 * config.seeds, dtype=torch.float32, device="cpu") - 1) * BOX
    visited = chains.run(model, torch.cat((box, x[: config.chains])), max(STEPS), seed=2).x
    rows = by_chains(config, visited, train, held_out)
    for seed, row in enumerate(rows):
        row |= {"attractors": len(distinct(ends[still[:, seed], seed])), "area": float(spurious[:, seed].float().mean())}
        row |= {"cost": -float(terms[:, seed].sum(1).mean())}
    return rows


def by_chains(config: Config, visited: Tensor, train: Tensor, held_out: Tensor) -> list[Row]:
    """A row for each seed, of what its chains visited: (steps, 2 chains, 2 seeds), from the box and from held-out data.

    far_N          the share of chains from the box that are not near the curve after N steps
    far_from_data  the same of the others, after the last step
    burn_in        the step after which half of the chains from the box have been near; None: they never were
    mmd2           between those chains' ends and held-out data
    coverage       the share of the curve's pieces that all chains' ends are near
    """
    s, near = config.seeds, NEAR * config.noise
    from_box, from_data = slice(None, config.chains), slice(config.chains, None)
    came = torch.stack([distance(x[from_box], s)[0] for x in visited[:WATCHED]]) <= near
    half = (came.cumsum(0) > 0).float().mean(1) >= 0.5  # (steps, seeds)
    at = {step: distance(visited[step - 1], s) for step in STEPS}
    last = torch.nan_to_num(visited[-1], FAR).clamp(-FAR, FAR).unflatten(1, (s, 2))
    (away, places), bandwidth = at[STEPS[-1]], metrics.median_bandwidth(train, held_out)
    rows = []
    for seed in range(s):
        row: Row = {f"far_{step}": float((at[step][0][from_box, seed] > near).float().mean()) for step in STEPS}
        row |= {"far_from_data": float((away[from_data, seed] > near).float().mean())}
        row |= {"burn_in": int((~half[:, seed]).sum()) + 1 if bool(half[-1, seed]) else None}
        row |= {"mmd2": metrics.mmd(last[from_box, seed], held_out, bandwidth=bandwidth).squared}
        rows.append(row | {"coverage": len(places[away[:, seed] <= near, seed].unique()) / PIECES})
    return rows
