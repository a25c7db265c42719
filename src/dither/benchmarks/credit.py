"""What it costs to follow credit: a step of the autoencoder 784-200-784, by costs with local terms and by whole ones.

    live      every call is watched, and its connections are looked up, or traced if they are new: the default
    static    declared: traced at the first call, and never watched
    windows   live, and every step has connections that no earlier one had: each is traced
    separate  live, declared to have separate examples: the look at the first call is no part of a step, so it costs nothing

Then the same question for sequences, on a Transformer: see `gated_transformer`.

With one thread its own processor time is taken. `times_static` are medians of ratios within one turn.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

import dither
from dither.benchmarks import gated_transformer, timing
from dither.benchmarks.by_hand import cleared
from dither.benchmarks.timing import Step
from dither.models.vae import BinaryVAE
from dither.tables import Progress, Result, Row


@dataclass(frozen=True)
class Config:
    """The time of a step whose credit is followed, against one that is declared static."""

    samples: int = 2
    batch_size: int = 100
    pixels: int = 784
    latents: int = 200
    repeats: int = 60
    windows: bool = True
    """Also measure steps that are traced each time."""
    sequences: int = 32
    """In the batch of the Transformer; 0 leaves it out."""
    length: int = 64
    width: int = 128
    layers: int = 2
    gradients: int = 100
    """Draws of the gradient, of which the variance is taken."""
    threads: int = 1
    seed: int = 0


def run(config: Config, folder: Path, progress: Progress = print) -> Result:
    """{"rows": a row per kind of costs and way of following them}: milliseconds of a step, and times those of a static one."""
    timing.prepare(config.threads, "highest", config.seed)
    model = BinaryVAE((config.pixels, config.latents))
    x = torch.rand(config.batch_size, config.pixels, dtype=torch.float32, device="cpu").bernoulli()
    clock = gated_transformer.clock_of(config.threads)
    rows: list[Row] = []
    for costs, closure in {"local": lambda: terms(model, x), "whole": lambda: terms(model, x).sum(1)}.items():
        times = timing.in_turn(steps(config, model, costs, closure), config.repeats, clock=clock)
        own = timing.rows_of(times, {"times_static": "static"}, costs=costs)
        rows += own
        live = next(row for row in own if row["implementation"] == "live")
        progress(f"{costs} costs: live takes {live['times_static']} of a static step")
    if config.sequences:
        net, tokens = gated_transformer.problem(config.sequences, config.length, config.width, config.layers)
        own = gated_transformer.rows(net, tokens, max(config.repeats // 6, 1), config.gradients, clock)
        rows += own
        first = own[-1]
        progress(f"sequences: the first call takes {first['first_steps']} steps, {first['first_memory']} of the memory")
    return {"rows": rows}


def steps(config: Config, model: BinaryVAE, costs: str, closure: Callable[[], Tensor]) -> dict[str, Step]:
    def step(static: bool, separate: bool, own: Callable[[], Tensor]) -> Step:
        estimator = dither.ScoreFunction(model, baseline="optimal", samples=config.samples)
        estimator.locality.static = static
        estimator.examples = "separate" if separate else "checked"
        return cleared(model, lambda: estimator(own).backward())

    result = {"static": step(True, False, closure), "live": step(False, False, closure)}
    if costs == "whole":
        return result | {"separate": step(False, True, closure)}
    if not config.windows:
        return result
    shift = 0

    def window() -> Tensor:
        part = closure()
        return torch.cat((part[:, :1], part[:, 1 + shift :], part[:, 1 : 1 + shift]), 1)

    shifted = step(False, False, window)

    def windows() -> None:
        nonlocal shift
        shift = (shift + 1) % config.latents
        shifted()

    return result | {"windows": windows}


def terms(model: BinaryVAE, x: Tensor) -> Tensor:
    """The distortion, which all units change, and what each costs by itself: (batch, 1 + latents)."""
    z = model.node(model.encoder(x))
    distortion = torch.nn.functional.binary_cross_entropy_with_logits(model.decoder(z), x, reduction="none").sum(
        1, keepdim=True
    )
    return torch.cat((distortion, 0.1 * z.square()), 1)
