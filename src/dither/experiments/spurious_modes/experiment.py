"""Spurious modes of denoising auto-encoders, and what walkback does about them, on a spiral in the plane.

Where local corruption never leads, the map x~ -> E[x | x~] is not trained, and may have attractors of its own, away
from the data. They are looked for from a grid over a box, and seen in what chains do that start anywhere in it. Plain
training (Algorithm 1) is compared with walkback (Algorithm 2), and with corruption of several noise scales
("multiscale"), at equal numbers of updates, and of pairs (x, x~) seen.

All seeds of a method train at once, as one network of 2 units for each. "exact" is no network but the data's own
E[x | x~]: what the same chain, with the same scale of reconstruction, does at best.
Source: Bengio, Yao, Alain and Vincent 2013 (generalized denoising auto-encoders), Sec. 3 and Figure 2.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dither.experiments.core.summary import mean_and_sd
from dither.experiments.spurious_modes.config import PAIRS, Config, check
from dither.experiments.spurious_modes.evaluation import BOX, distinct, evaluate, iterate
from dither.experiments.spurious_modes.models import data, learn
from dither.models.dae import DAE
from dither.plots import field
from dither.tables import NamedFigure, Progress, Result, Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Config", "figures", "run"]

SHOWN = {"without walkback": "plain-batch-x5", "with walkback": "walkback-5"}  # equal updates and pairs


def run(config: Config, folder: Path, progress: Progress = print) -> Result:
    """{"rows": a row per corruption and method, over the seeds, "curves": every seed, "figures": the fields}."""
    check(config)
    torch.set_num_threads(config.threads)
    rows, curves, drawings = list[Row](), list[Row](), list[NamedFigure]()
    train, held_out = data(config, 0), data(config, 1)
    for corruption in config.corruptions:
        models: dict[str, DAE] = {}
        by_seed: dict[str, list[Row]] = {}
        for method in config.methods:
            models[method] = learn(config, method, corruption, train)
            by_seed[method] = evaluate(config, models[method], train, held_out)
            head: Row = {"corruption": corruption, "method": method}
            curves += [head | {"seed": seed} | values for seed, values in enumerate(by_seed[method])]
            rows.append(head | summary(by_seed[method]))
            progress(f"corruption {corruption}, {method}: spurious area {rows[-1]['area']}")
        if set(SHOWN.values()) <= models.keys():
            drawings.append((f"field-{corruption:g}", picture(config, models, worst_seed(by_seed), train)))
    return {"rows": rows, "curves": curves, "figures": drawings}


def figures(curves: list[Row]) -> list[NamedFigure]:
    """None from the curves: what is shown are the fields, which `run` gives."""
    return []


def summary(rows: list[Row]) -> Row:
    """Mean and standard deviation over seeds; nothing where a seed has no value. clean: seeds without spurious area."""
    summed: Row = {"seeds": len(rows), "clean": sum(row["area"] == 0 for row in rows)}
    for key in rows[0]:
        mean, deviation = mean_and_sd(key, [row[key] for row in rows]).values()
        summed[key] = None if mean is None else float(f"{mean:.4g}")
        summed[f"{key}_sd"] = None if deviation is None else float(f"{deviation:.3g}")
    return summed


# --- the picture ------------------------------------------------------------------------------------------------------
def worst_seed(by_seed: dict[str, list[Row]]) -> int:
    """The seed that plain training has left the largest spurious area."""
    rows = by_seed[SHOWN["without walkback"]]
    return max(range(len(rows)), key=lambda seed: rows[seed]["area"])


@torch.no_grad()
def picture(config: Config, models: dict[str, DAE], seed: int, train: Tensor) -> Figure:
    """Where the map leads, without and with walkback, and one walk."""
    side = torch.linspace(-BOX, BOX, 24, dtype=torch.float32, device="cpu")
    grid = torch.cartesian_prod(side, side)
    expected, attractors = {}, {}
    for title, method in SHOWN.items():
        network = models[method].network
        expected[title] = network(grid.repeat(1, config.seeds))[:, : 2 * config.seeds].unflatten(1, (-1, 2))[:, seed]
        ends, _, still = iterate(config, models[method])
        if places := distinct(ends[still[:, seed], seed]):
            attractors[title] = torch.stack(places)
    paths = {"with walkback": walk(config, models[SHOWN["with walkback"]], train[:1])[:, seed]}
    return field.side_by_side(train, grid, expected, paths=paths, attractors=attractors)


def walk(config: Config, model: DAE, x: Tensor) -> Tensor:
    """The walk that training takes, away from an example x (1, 2): (steps, seeds, 2)."""
    torch.manual_seed(3)
    x, visited = x.repeat(1, config.seeds), []
    for _ in range(PAIRS + 1):
        visited.append(x)
        assert model.corruption is not None
        x = model.reconstruction.sample(model.network(model.corruption(x)))
    return torch.cat(visited).unflatten(1, (-1, 2))
