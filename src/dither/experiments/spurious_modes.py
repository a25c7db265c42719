"""Spurious modes of denoising auto-encoders, and what walkback does about them, on a spiral in the plane.

Where local corruption never leads, the map x~ -> E[x | x~] is not trained, and may have attractors of its own, away from the
data. They are looked for from a grid over a box, and seen in what chains do that start anywhere in it. Plain training
(Algorithm 1) is compared with walkback (Algorithm 2), and with corruption of several strengths ("levels"), at equal numbers of
updates, and of pairs (x, x~) seen.

All seeds of a method train at once, as one network of 2 units for each (`network`). "exact" is no network but the data's own
E[x | x~]: what the same chain, with the same scale of reconstruction, does at best.
Source: Bengio, Yao, Alain and Vincent 2013 (generalized denoising auto-encoders), Sec. 3 and Figure 2.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from dither.experiments._spurious_models import METHODS, PAIRS, curve, learn

SHOWN = {"without walkback": "plain-batch-x5", "with walkback": "walkback-5"}  # equal updates and pairs
BOX, NEAR = 1.6, 3  # half the side of the box; standard deviations of the data that still count as near the curve
STILL, APART, FAR = 1e-4, 0.05, 100.0  # moves of fixed points; distance of different ones; where runaways are put
STEPS, WATCHED = (10, 100, 1000), 200  # of the chains: when they are judged, and for how long their coming near is
PIECES = 50  # of the curve's length


@dataclass(frozen=True)
class Config:
    """Spurious attractors of denoising auto-encoders on a spiral, trained with and without walkback."""

    methods: tuple[str, ...] = tuple(METHODS)
    corruptions: tuple[float, ...] = (0.03,)
    """standard deviations of the local corruption; the spiral's turns are about .7 apart"""
    noise: float = 0.03
    """standard deviation of the data around the curve"""
    learned_scale: bool = False
    """the network gives the reconstruction's scale too; else it is fixed, the best one for a straight line"""
    activation: str = "relu"
    """or tanh"""
    gain: float = 8.0
    """the network sees gain x~: it can bend within the gap between two turns"""
    hidden: int = 64
    seeds: int = 5
    examples: int = 1000
    """to train, and again held out"""
    updates: int = 2000
    batch: int = 64
    lr: float = 0.005
    """falls to 0 along a cosine"""
    points: int = 30
    """of the grid over the box, along each side"""
    iterations: int = 1000
    """of x~ -> E[x | x~]"""
    chains: int = 200
    """from the box, and as many from held-out examples"""
    threads: int = 1


def run(config: Config, folder: Path, progress: Callable[[str], Any] = print) -> dict[str, Any]:
    """{"rows": mean and spread over seeds for each corruption and method, "curves": every seed, "figures": the fields}."""
    import torch

    if unknown := sorted(set(config.methods) - set(METHODS)):
        raise ValueError(f"there is no method {unknown[0]!r}; choose among {', '.join(METHODS)}")
    if config.activation not in ("relu", "tanh"):
        raise ValueError(f"activation is {config.activation!r}: expected relu or tanh")
    torch.set_num_threads(config.threads)
    rows, curves, drawn = [], [], []
    train, held_out = data(config, 0), data(config, 1)
    for corruption in config.corruptions:
        models, found = {}, {}
        for method in config.methods:
            models[method] = learn(config, method, corruption, train)
            found[method] = judge(config, models[method], train, held_out)
            head = {"corruption": corruption, "method": method}
            curves += [head | {"seed": seed} | values for seed, values in enumerate(found[method])]
            rows.append(head | summary(found[method]))
            progress(f"corruption {corruption}, {method}: spurious area {rows[-1]['area']}")
        drawn += picture(config, corruption, models, found, train)
    return {"rows": rows, "curves": curves, "figures": drawn}


def figures(curves: list[dict[str, Any]]) -> list[tuple[str, Any]]:
    """None: what is drawn are the fields, which `run` gives."""
    return []


def data(config: Config, seed: int) -> Any:
    """(examples, 2): uniform along the curve, and noise."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    points = curve()
    at = torch.randint(len(points), (config.examples,), generator=generator)
    return (points[at] + config.noise * torch.randn(config.examples, 2, generator=generator, dtype=points.dtype)).float()


# --- judging ------------------------------------------------------------------------------------------------------------
def distance(x: Any, seeds: int) -> tuple[Any, Any]:
    """(..., 2 seeds) -> distances to the curve and where on it, of PIECES: (..., seeds). Runaways are FAR."""
    import torch

    points = curve()[::4]
    x = torch.nan_to_num(x, FAR).clamp(-FAR, FAR).unflatten(-1, (seeds, 2))
    found = torch.cdist(x.reshape(-1, 2).double(), points).min(1)
    return found.values.view(x.shape[:-1]), found.indices.view(x.shape[:-1]) * PIECES // len(points)


def settle(config: Config, model: Any) -> tuple[Any, Any, Any]:
    """Where x~ -> E[x | x~] leads from the grid: (ends (points, seeds, 2), which are spurious, which of these are still)."""
    import torch

    side = torch.linspace(-BOX, BOX, config.points)
    x = torch.cartesian_prod(side, side).repeat(1, config.seeds)
    for count in range(1, config.iterations + 1):
        before, x = x, model.reconstruction.mean(model.network(x))
        if count % 25 and count != config.iterations:
            continue
        spurious = ~(distance(x, config.seeds)[0] <= NEAR * config.noise)
        still = spurious & ((x - before).unflatten(1, (-1, 2)).norm(dim=2) < STILL)
        if bool((still == spurious).all()):
            break
    return x.unflatten(1, (-1, 2)), spurious, still


def distinct(ends: Any) -> list[Any]:
    found: list[Any] = []
    for end in ends:
        if all((end - other).norm() > APART for other in found):
            found.append(end)
    return found


def judge(config: Config, model: Any, train: Any, held_out: Any) -> list[dict[str, Any]]:
    """The measures of each seed."""
    import torch

    from dither import chains, metrics

    s, near = config.seeds, NEAR * config.noise
    with torch.no_grad():
        torch.manual_seed(1)
        ends, spurious, still = settle(config, model)
        x = held_out.repeat(1, s)
        terms = model.reconstruction.terms(model.network(model.corruption(x)), x)
        start = torch.cat(((2 * torch.rand(config.chains, 2 * s) - 1) * BOX, x[: config.chains]))
        visited = chains.run(model, start, max(STEPS), seed=2).x
        first = torch.stack([distance(x[: config.chains], s)[0] for x in visited[:WATCHED]]) <= near
    came = (first.cumsum(0) > 0).float().mean(1) >= 0.5  # (steps, seeds): whether half of the chains have been near
    at = {step: distance(visited[step - 1], s) for step in STEPS}
    last = torch.nan_to_num(visited[-1], FAR).clamp(-FAR, FAR).unflatten(1, (s, 2))
    wide = metrics.median_bandwidth(train, held_out)
    found = []
    for seed in range(s):
        row: dict[str, Any] = {"attractors": len(distinct(ends[still[:, seed], seed]))}
        row |= {"area": float(spurious[:, seed].float().mean())}
        row |= {f"far_{step}": float((at[step][0][: config.chains, seed] > near).float().mean()) for step in STEPS}
        row |= {"far_from_data": float((at[STEPS[-1]][0][config.chains :, seed] > near).float().mean())}
        row |= {"burn_in": int((~came[:, seed]).sum()) + 1 if bool(came[-1, seed]) else None}
        row |= {"cost": -float(terms.unflatten(1, (s, 2))[:, seed].sum(1).mean())}
        row |= {"mmd2": metrics.mmd(last[: config.chains, seed], held_out, bandwidth=wide).squared}
        close = at[STEPS[-1]][0][:, seed] <= near
        row |= {"coverage": len(at[STEPS[-1]][1][close, seed].unique()) / PIECES}
        found.append(row)
    return found


def summary(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and standard deviation over seeds; nothing where a seed has no value."""
    row: dict[str, Any] = {"seeds": len(found), "clean": sum(one["area"] == 0 for one in found)}
    for key in found[0]:
        values = [one[key] for one in found]
        whole = None not in values
        row[key] = float(f"{fmean(values):.4g}") if whole else None
        row[f"{key}_sd"] = float(f"{stdev(values):.3g}") if whole and len(values) > 1 else None
    return row


def picture(config: Config, corruption: float, models: Any, found: Any, train: Any) -> list[tuple[str, Any]]:
    """Where the map leads, without and with walkback, for the seed that plain training has served worst."""
    import torch

    from dither.plots import field

    if not set(SHOWN.values()) <= models.keys():
        return []
    worst = max(range(config.seeds), key=lambda seed: found[SHOWN["without walkback"]][seed]["area"])
    side = torch.linspace(-BOX, BOX, 24)
    grid = torch.cartesian_prod(side, side)
    expected, spurious, paths = {}, {}, {}
    with torch.no_grad():
        for title, method in SHOWN.items():
            model = models[method]
            expected[title] = model.network(grid.repeat(1, config.seeds))[:, : 2 * config.seeds].unflatten(1, (-1, 2))[:, worst]
            ends, _, still = settle(config, model)
            if places := distinct(ends[still[:, worst], worst]):
                spurious[title] = torch.stack(places)
        torch.manual_seed(3)
        x, walk = train[:1].repeat(1, config.seeds), []
        for _ in range(PAIRS + 1):  # the walk that training takes, away from an example
            walk.append(x)
            x = model.reconstruction.sample(model.network(model.corruption(x)))
        paths["with walkback"] = torch.cat(walk).unflatten(1, (-1, 2))[:, worst]
    figure = field.side_by_side(train, grid, expected, paths=paths, attractors=spurious)
    return [(f"field-{corruption:g}", figure)]
