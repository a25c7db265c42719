"""What dither costs beside the same estimator written by hand in plain torch: an autoencoder 784-200-784, K = 10.

One step is forward and backward, without the optimizer's update, which is the same for all.

    dither                      an estimator of the library
    by hand                     `by_hand`: the same estimator in plain torch, noise by torch.rand
    by hand, dither's noise     the same code with dither's keyed noise in the place of torch.rand: from one seed it and
                                dither make the very same gradient, so the two ratios tell the price of that noise from
                                that of all else
    pyro, storchastic           the peers, where they are installed (pip install "dither[bench]"); measured after the
                                rest, because storchastic changes torch when it is imported

With one thread its own processor time is taken, in which a busy machine's waiting does not count; with more, the time
of day. `times_*` are medians of ratios within one turn, `min_times_*` ratios of the shortest steps, which a busy
machine disturbs less.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

import dither
from dither import methods
from dither.benchmarks import timing
from dither.benchmarks.by_hand import HAND, Hand, cleared, keyed_uniform, torch_uniform
from dither.benchmarks.peers import PEERS
from dither.benchmarks.timing import Step
from dither.models.vae import BinaryVAE
from dither.tables import Progress, Result, Row

BY_HAND, OWN_NOISE = "by hand", "by hand, dither's noise"
AGAINST = {"hand": BY_HAND, "own_noise": OWN_NOISE}


@dataclass(frozen=True)
class Config:
    """The time of one step with dither's estimators, against the same estimators written by hand."""

    methods: tuple[str, ...] = tuple(HAND)
    samples: int = 10
    batch_size: int = 100
    pixels: int = 784
    latents: int = 200
    repeats: int = 60
    peers: bool = True
    """Also measure storchastic and Pyro, if they are installed."""
    threads: int = 1
    seed: int = 0


def run(config: Config, folder: Path, progress: Progress = print) -> Result:
    """{"rows": a row per method and implementation}: milliseconds of a step, and times those of the hand-written one.

    Implementations of a method are timed in turn, so that a busy machine disturbs all alike.
    """
    unknown = [name for name in config.methods if name not in HAND]
    if unknown:
        raise ValueError(f"no step by hand of {', '.join(map(repr, unknown))}; there are those of {', '.join(HAND)}")
    if config.samples < 2 or config.samples % 2:
        raise ValueError(f"samples is {config.samples}: pairs need an even number, such as 10")
    torch.set_num_threads(config.threads)
    rows = []
    for method in config.methods:
        own = _compared(method, implementations(config, method), config)
        rows += own
        progress(f"{method}: {own[0]['times_hand']} times the hand-written one")
    rows += _peers(config, progress) if config.peers else []
    return {"rows": rows}


def implementations(config: Config, method: str) -> dict[str, Step]:
    """dither, by hand, and by hand with dither's noise, on the same net and batch."""
    model, x = problem(config)
    estimator = built(method, model, config.samples)
    noises = {BY_HAND: torch_uniform(x, config.latents), OWN_NOISE: keyed_uniform(x, config.latents)}
    by_hand = {name: Hand(model, x, config.samples, uniform) for name, uniform in noises.items()}
    return {"dither": cleared(model, lambda: estimator(lambda: model.cost(x)).backward())} | {
        name: cleared(model, lambda hand=hand: HAND[method](hand).backward()) for name, hand in by_hand.items()
    }


def problem(config: Config) -> tuple[BinaryVAE, Tensor]:
    torch.manual_seed(config.seed)
    model = BinaryVAE((config.pixels, config.latents))
    return model, torch.rand(config.batch_size, config.pixels, dtype=torch.float32, device="cpu").bernoulli()


def built(method: str, model: BinaryVAE, samples: int) -> dither.Estimator:
    """The estimator, with `samples` runs of the decoder."""
    return methods.build(method, model, samples=samples)


def _compared(method: str, steps: Mapping[str, Step], config: Config) -> list[Row]:
    """Ratios are medians of those within one turn, which a slow spell of the machine leaves alone."""
    clock = time.thread_time if config.threads == 1 else time.perf_counter
    times = timing.in_turn(steps, config.repeats, clock=clock)
    against = {name: other for name, other in AGAINST.items() if other in times}
    rows = timing.rows_of(times, {f"times_{name}": other for name, other in against.items()}, method=method)
    for row, own in zip(rows, times.values(), strict=True):
        row |= {f"min_times_{name}": round(min(own) / min(times[other]), 3) for name, other in against.items()}
    return rows


def _peers(config: Config, progress: Progress) -> list[Row]:
    rows = []
    for name, (method, build) in PEERS.items():
        try:
            step = build(*problem(config), config.samples)
        except ImportError as error:
            progress(f"{name} is left out: {error}")
            continue
        ours = implementations(config, method)
        rows += _compared(method, {name: step, "dither": ours["dither"], BY_HAND: ours[BY_HAND]}, config)[:1]
        progress(f"{name}: {rows[-1]['times_hand']} times the hand-written one")
    return rows
